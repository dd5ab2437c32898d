"""Generated from protos/tessera/type/v1."""
