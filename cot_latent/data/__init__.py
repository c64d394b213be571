"""From a SeqIO task to arrays; prompt templates; answer checkers."""
