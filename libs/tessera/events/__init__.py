"""Generated from protos/tessera/events."""
