"""`recbole-cora compare`: several systems on the same rows, over several seeds, as one table.

experiment.py  what is compared: systems, dataset, seeds, from a YAML file or from names
runs.py        the runs that are missing, each in a process of its own; what is finished is kept by content
child.py       the process of one run, which ends with the driver
table.py       from finished runs to report.md, report.json and report.csv
command.py     the command line
"""
