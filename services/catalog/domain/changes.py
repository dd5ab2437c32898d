"""What callers ask to create and to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Changes", "Draft"]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a caller says of a new object beside its name and kind."""

    comment: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    """Only administrators and services may name another owner than themselves."""


@dataclass(frozen=True, slots=True)
class Changes:
    """New values of an object; None leaves one as it is."""

    comment: str | None = None
    owner: str | None = None
    etag: str = ""
    """The state that was read; empty to change whatever is there."""
