"""Checkpoints in the Hugging Face format: weights, config, tokenizer."""
