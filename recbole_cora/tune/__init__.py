"""`recbole-cora tune`: a search over settings by Ray Tune, for any model, on the valid rows.

space.py    what is searched: a YAML of settings and how each is drawn
trials.py   what is left of a search: table, best settings, picture
search.py   the search itself; the one file that imports ray
command.py  the command line
"""
