"""GSM8K and BIG-Bench Hard as TensorFlow Datasets, and as SeqIO sources."""
