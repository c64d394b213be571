"""A SeqIO task made into arrays; prompt templates; answer checkers."""
