"""The ports on real systems, and their twins in memory."""
