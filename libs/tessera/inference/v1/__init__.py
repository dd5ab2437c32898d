"""Generated from protos/tessera/inference/v1."""
