"""Endpoints, their configurations and signatures: rules that need no I/O."""
