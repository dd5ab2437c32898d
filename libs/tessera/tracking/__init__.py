"""Generated from protos/tessera/tracking."""
