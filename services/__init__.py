"""The platform's services; each is a process of its own."""
