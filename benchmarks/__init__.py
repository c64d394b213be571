"""What the methods cost and gain, as numbers and plots; `python -m` each."""
