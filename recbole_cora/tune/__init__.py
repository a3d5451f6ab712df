"""`recbole-cora tune`: find good settings for any model with Ray Tune, by its scores on the valid rows.

space.py         the search space: a YAML file of settings and how each is drawn
records.py       a search, its trials and its report, as dataclasses and JSON
trials.py        each trial's record on disk, kept up to date while it runs
search.py        the search itself, run by ray
ray_versions.py  the differences between versions of ray
report.py        trials.json, trials.md, best.yaml and search.png
command.py       the command line
"""
