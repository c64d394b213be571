"""Language models as three functions: `init`, `sample`, `log_prob`."""
