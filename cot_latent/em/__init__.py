"""What every trainer shares: method, E-step, outer loops, evaluation."""
