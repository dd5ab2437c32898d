"""The use cases: no gRPC, no SQL text."""
