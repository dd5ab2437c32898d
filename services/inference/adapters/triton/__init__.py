"""The ports of the model runtime over Triton: its repository API, and the way of requests to it."""
