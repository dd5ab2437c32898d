"""Generated from protos/tessera/training."""
