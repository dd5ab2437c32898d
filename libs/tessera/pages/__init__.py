"""Pages for people: HTML documents that need nothing else, no server and no network."""
