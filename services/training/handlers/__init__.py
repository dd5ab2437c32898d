"""Use cases: what happens on a call, an event or a process's end."""
