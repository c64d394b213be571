"""What the commands of `t5x` do."""
