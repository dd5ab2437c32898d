"""Tracking's use cases: they know the domain and the ports, neither gRPC nor SQL."""
