"""In-memory twins of the ports: they keep the ports' constraints and nothing on disk."""
