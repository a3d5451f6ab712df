"""`recbole-cora compare`: run several systems on the same rows with several seeds, and report them in one table.

experiment.py  the experiment: systems, dataset and seeds, from a YAML file or from model names
runs.py        execute the missing runs, each in a process of its own; finished runs are kept by content
child.py       the process of one run, which ends with the driver
pairs.py       the pairs of systems that an experiment names
rows.py        the scores and the cost of each system over its seeds
scores.py      the scored test rows of the runs, resampled by user
significance.py  which differences are real: intervals, p-values, ties
verdict.py     the comparisons as Markdown, and the result in one sentence
table.py       write report.md, report.json and report.csv from the finished runs
figures.py     intervals, quality against cost, and learning curves, as SVG and PNG
pages.py       the tables of committed results in the README and the docs
command.py     the command line
"""
