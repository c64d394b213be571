"""Checkpoints in the formats of Hugging Face and llama.cpp."""
