"""Generated from protos/tessera/events/v1."""
