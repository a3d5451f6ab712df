"""From raw archives to RecBole's atomic files with the paper's split, exactly.

raw files -> reader (movielens, amazon, table) -> Raw: compact columns, and what was wrong with them (problems)
Raw -> recipe: label, split, order, histories (protocol) -> files, whole or not at all
"""
