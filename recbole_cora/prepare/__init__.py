"""Turn raw ratings into RecBole's atomic files, with exactly the paper's split.

raw files -> a reader (movielens, amazon, amazon_2023, goodreads, table) -> Raw: compact columns, problems of bad rows
Raw -> recipe: label, split, order, histories (protocol), sampled negatives -> overview -> write: all files or none
"""
