"""`recbole-cora compare`: run several systems on the same rows with several seeds, and report them in one table.

experiment.py  the experiment: systems, dataset and seeds, from a YAML file or from model names
runs.py        execute the missing runs, each in a process of its own; finished runs are kept by content
child.py       the process of one run, which ends with the driver
rows.py        the scores and the cost of each system over its seeds
table.py       write report.md, report.json and report.csv from the finished runs
pages.py       the tables of committed results in the README and the docs
command.py     the command line
"""
