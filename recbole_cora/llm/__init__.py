"""The frozen LLM: `hub` loads it, `frozen` scores with it, `families` finds its projections, `deltas` adds to them.

`packed` reads prompts in one row without padding, `prefix` caches what prompts share, `recompute` saves memory.

Nothing is imported here, so that the deltas and the families run without `transformers`.
"""
