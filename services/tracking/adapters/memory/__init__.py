"""The ports in memory: for tests, and as the plainest statement of what each one promises."""
