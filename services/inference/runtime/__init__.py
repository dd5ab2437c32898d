"""What is sent to the model runtime: checked archives, configurations, a model's program."""
