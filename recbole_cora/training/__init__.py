"""Training and scoring of one model: stage, trainer, checkpoints, training states, and the run folder."""
