"""Language models as two functions, `sample` and `log_prob`."""
