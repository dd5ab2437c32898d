"""Watches tables: profiles, drift and quality in windows of time, and alerts."""
