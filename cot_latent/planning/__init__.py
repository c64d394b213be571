"""What a run needs on chips that are not at hand: compiled, never run."""
