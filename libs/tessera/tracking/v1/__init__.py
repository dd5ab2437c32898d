"""Generated from protos/tessera/tracking/v1."""
