"""What a training job is and how it lives; pure, no I/O."""
