"""`recbole-cora compare`: run several systems on the same rows with several seeds, and report them in one table.

experiment.py  what is compared: systems, dataset and seeds, from a YAML file or from model names
runs.py        make the missing runs, each in a process of its own; finished runs are kept by content
child.py       the process of one run, which ends with the driver
table.py       write report.md, report.json and report.csv from the finished runs
command.py     the command line
"""
