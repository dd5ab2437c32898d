"""Rules of an endpoint's traffic beside the shares: stickiness and fallback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.inference.errors import InvalidConfig
from tessera_kit.errors import FieldViolation

__all__ = ["TrafficPolicy", "check_policy"]

_NEVER_RETRIED: Final = {
    1: "the caller went away",
    3: "every entity would refuse the request",
    4: "no time is left",
    7: "the caller may not ask",
    16: "the caller is not known",
}


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """How requests are led to served entities."""

    sticky: bool = False
    """Requests with one key go to one entity."""
    fallback_codes: frozenset[int] = frozenset()
    """gRPC codes on which other entities are asked."""
    fallback_attempts: int = 1
    """How many others are asked at most."""


def check_policy(policy: TrafficPolicy) -> None:
    """Raise InvalidConfig when a code stands for what another entity cannot help with."""
    for code in sorted(policy.fallback_codes & _NEVER_RETRIED.keys()):
        text = f"code {code} cannot be fallen back on: {_NEVER_RETRIED[code]}"
        raise InvalidConfig(
            text, violations=[FieldViolation("config.traffic.fallback_codes", text)]
        )
