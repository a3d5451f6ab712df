"""The frozen parts of a run: LLM, prompts, CF encoder, codes and LoRA, made once and cached by content."""
