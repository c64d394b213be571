"""What a run needs on chips that are not available: compiled, never run."""
