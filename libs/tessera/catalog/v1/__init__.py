"""Generated from protos/tessera/catalog/v1."""
