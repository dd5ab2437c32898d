"""Generated from protos/tessera/monitoring/v1."""
