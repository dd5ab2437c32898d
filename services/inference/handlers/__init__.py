"""Use cases: what a caller or the passage of time asks of inference."""
