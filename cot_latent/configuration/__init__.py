"""From gin files and bindings to an experiment."""
