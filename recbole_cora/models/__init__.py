"""RecBole models. A class takes (config, dataset), and as keyword arguments the frozen parts that its `needs` name.

There are five ways to condition an LLM on a (user, item) pair. Each model that uses one has a file:

    nothing                  icl.py           the text prompt alone, read by the unchanged LLM
    shared weights           tallrec.py       a LoRA, the same for every pair
    vectors in the prompt    prompt4nr.py     learned soft tokens, the same for every pair
                             personprompt.py  a learned vector for each user and item
                             collm.py         their frozen CF embeddings, mapped to tokens
    text in the prompt       binllm.py        their CF embeddings as short binary codes (binary_codes.py)
    the pair's own weights   cora.py          weights generated from their CF embeddings

late_fusion.py does not condition it: a regression combines the LLM's score with the CF encoder's.

mf.py, lgcn.py and sas.py are CF models trained on labels, which become frozen encoders. averages.py and
history_features.py are baselines without an LLM or an encoder. All other models are RecBole's own.
"""
