"""Training: jobs as isolated processes, with retries, checkpoints, live progress and triggers."""
