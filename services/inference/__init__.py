"""Inference: endpoints, the gateway that speaks the Open Inference Protocol, and its log."""
