"""The embedded trainer: E-step, M-step, checkpoints, evaluation."""
