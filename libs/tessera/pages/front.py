"""The page at the root of the HTTP door: leads from the links that MLflow's clients print."""

from __future__ import annotations

from tessera.pages import document

__all__ = ["front_page", "front_policy"]


def front_policy() -> str:
    """Return the page's Content-Security-Policy, which it also holds itself."""
    return document.policy(document.script("front.js"))


def front_page() -> str:
    """Return the document: the same for everybody, it tells nothing that was logged."""
    return document.render("front.html.j2", policy=front_policy(), code=document.script("front.js"))
