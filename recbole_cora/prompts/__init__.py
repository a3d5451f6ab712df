"""Text prompts: templates, the words that fill them, and every row's prompt in an LLM's tokens."""
