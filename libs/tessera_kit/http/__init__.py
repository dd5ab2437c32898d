"""The HTTP doors of services: one server builder, one pipeline, one table of statuses."""
