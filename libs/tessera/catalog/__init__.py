"""Generated from protos/tessera/catalog."""
