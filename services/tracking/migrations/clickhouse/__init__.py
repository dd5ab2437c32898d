"""Numbered SQL files that make the service's own ClickHouse database."""
