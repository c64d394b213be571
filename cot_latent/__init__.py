"""Chain of thought as a latent variable; importing this starts nothing."""

__version__ = "0.1.0"
