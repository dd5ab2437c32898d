"""Traces of generative applications: their spans, and what people and judges say of them."""
