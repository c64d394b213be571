"""How completions state answers, and how they are compared."""
