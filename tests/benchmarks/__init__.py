"""Measures the platform beside its peers: `infra/run bench`. Nothing here fails on a duration."""
