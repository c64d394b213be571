"""Gin files and bindings made into an experiment."""
