"""Generated from protos/tessera/monitoring."""
