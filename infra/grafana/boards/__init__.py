"""Grafana's pages as code: `model` is what they are made of, `render` writes Grafana's JSON."""
