"""Text prompts: templates, their words, and every row's prompt in an LLM's tokens."""
