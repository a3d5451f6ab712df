"""How one model is trained and scored: stage, trainer, checkpoints, training states, and the run folder."""
