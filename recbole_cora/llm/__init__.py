"""The frozen LLM: `hub` loads it, `frozen` asks it, `families` finds its weights, `deltas` adds a pair's own to them.

How it reads: `packed` in one row without padding, `prefix` what many prompts begin with, `recompute` to save memory.

Nothing is imported here, so that the deltas and the families run without `transformers`.
"""
