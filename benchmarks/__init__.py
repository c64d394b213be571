"""Costs and gains of the methods, as numbers and plots; `python -m` each."""
