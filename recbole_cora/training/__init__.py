"""Training and scoring one model: stage, trainer, checkpoints, states, and the run folder."""
