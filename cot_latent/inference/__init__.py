"""The statistics of TRICE: memory, transition, estimators, resampling.

Pure functions on arrays. Nothing here depends on a model, tokenizer or task.
"""
