"""What is said about an endpoint beside what it serves; changed without a new configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from services.inference.domain.limits import RateLimit

__all__ = ["EndpointSettings"]


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """An endpoint's settings."""

    tags: Mapping[str, str] = field(default_factory=dict)
    rate_limits: tuple[RateLimit, ...] = ()

    def changed(self, new: EndpointSettings, names: Collection[str]) -> EndpointSettings:
        """These settings with the named ones of `new`; other names are passed over."""
        changes: dict[str, Any] = {
            one.name: getattr(new, one.name) for one in fields(new) if one.name in names
        }
        return replace(self, **changes)
