"""Where tracking's ports meet the world; each has a twin in memory."""
