"""Generated from protos/tessera/type."""
