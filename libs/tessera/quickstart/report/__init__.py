"""The page that the main job ends with: one HTML file with its pictures inside."""

from tessera.quickstart.report.page import render

__all__ = ["render"]
