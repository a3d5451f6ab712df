"""Confidence intervals and tests of AUC and UAUC on scored rows. The unit of resampling is the user, not the row.

The rows of one user depend on one another, so intervals that resample rows are too narrow. Resampling users with all
their rows (the cluster bootstrap; Field and Welsh, "Bootstrapping clustered data", JRSS B 2007) keeps the dependence.

users.py       what AUC and UAUC of any resample of the users need, computed once per run
bootstrap.py   intervals; the same resampled users for every system
paired.py      paired tests between two systems, and Holm's correction
simulation.py  coverage and error rates on simulated scores whose true AUC and UAUC are known
"""
