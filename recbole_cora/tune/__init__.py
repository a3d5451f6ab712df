"""`recbole-cora tune`: search the settings of any model with Ray Tune, by its scores on the valid rows.

space.py    the search space: a YAML of settings and how each is drawn
records.py  what a search is and what became of it, as dataclasses and JSON
trials.py   each trial's record on disk, kept up to date while it runs
search.py   the search itself; the only file that imports ray
report.py   trials.json, trials.md, best.yaml and search.png
command.py  the command line
"""
