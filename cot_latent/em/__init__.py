"""Parts that all trainers share: method, E-step, outer loops, evaluation."""
