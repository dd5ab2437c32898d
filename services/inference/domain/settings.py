"""What is said about an endpoint beside what it serves; changed without a new configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from services.inference.domain.limits import RateLimit

__all__ = ["EndpointSettings", "WhenSpoolFull"]


class WhenSpoolFull(StrEnum):
    """What happens to requests that cannot be kept."""

    REFUSE = "REFUSE"
    COUNT = "COUNT"
    """They are answered all the same."""


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """An endpoint's settings."""

    tags: Mapping[str, str] = field(default_factory=dict)
    rate_limits: tuple[RateLimit, ...] = ()
    sampling_fraction: float = 1.0
    """Share of the requests that are kept."""
    retention_days: int = 0
    """Days that rows are kept; 0 for ever."""
    when_spool_full: WhenSpoolFull = WhenSpoolFull.REFUSE

    def changed(self, new: EndpointSettings, names: Collection[str]) -> EndpointSettings:
        """These settings with the named ones of `new`; other names are passed over."""
        changes: dict[str, Any] = {
            one.name: getattr(new, one.name) for one in fields(new) if one.name in names
        }
        return replace(self, **changes)
