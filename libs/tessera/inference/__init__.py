"""Generated from protos/tessera/inference."""
