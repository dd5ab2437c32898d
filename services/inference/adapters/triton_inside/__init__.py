"""The ports of the model runtime over Triton within this process, by its C interface."""
