"""Turn raw ratings into RecBole's atomic files, with exactly the paper's split.

raw files -> a reader (movielens, amazon, table) -> Raw: compact columns, and the problems of bad rows
Raw -> recipe: label, split, order and histories (protocol) -> files, either all written or none
"""
