"""Generated from protos/tessera/training/v1."""
