"""Checkpoints as Hugging Face or llama.cpp have them."""
