"""Traces, metrics and structured logs; `names` lists every one of them."""
