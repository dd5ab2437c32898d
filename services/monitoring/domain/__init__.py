"""Monitors, windows, metrics and alerts: the rules, without any input or output."""
