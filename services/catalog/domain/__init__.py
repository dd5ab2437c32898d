"""The catalog's rules, free of storage and transport."""
