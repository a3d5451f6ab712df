"""The frozen LLM: `frozen` loads and asks it, `families` finds its weights, `deltas` adds a pair's own to them.

Nothing is imported here, so that the deltas and the families run without `transformers`.
"""
