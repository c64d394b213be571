"""The statistics of TRICE: memory, transition, estimators, resampling.

Pure functions on arrays. Nothing here knows a model, a tokenizer or a task.
"""
