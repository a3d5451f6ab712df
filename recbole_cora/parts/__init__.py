"""The frozen parts of a run: LLM, prompts, CF encoder, codes and LoRA. Each is made once and cached by its content."""
