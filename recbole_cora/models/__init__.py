"""RecBole models: a class takes (config, dataset), and by name the ready parts that its `needs` ask for.

There are five ways to condition an LLM on a (user, item) pair, and a file for each model that uses one:

    nothing                  icl.py           the prompt's text alone, to the LLM as it is
    shared weights           tallrec.py       a LoRA, the same for every pair
    vectors in the prompt    prompt4nr.py     learned soft tokens, the same for every pair
                             personprompt.py  a learned vector of each user and item
                             collm.py         their frozen CF embeddings, mapped to tokens
    text in the prompt       binllm.py        their CF embeddings as short binary codes (binary_codes.py)
    the pair's own weights   cora.py          weights generated from their CF embeddings

mf.py, lgcn.py, sas.py: CF models on labels, which become frozen encoders; averages.py, history_features.py: what needs
neither; the rest are RecBole's own.
"""
