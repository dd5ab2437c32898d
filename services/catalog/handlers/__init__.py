"""The catalog's use cases: what is asked, checked and done; no gRPC and no SQL."""
