"""Amounts as people read them."""

from __future__ import annotations

__all__ = ["human_bytes", "human_duration"]


def human_bytes(count: float) -> str:
    """Bytes in the unit a person would choose: 1.4 GB."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def human_duration(seconds: float) -> str:
    """Seconds as 0.4 s, 12 s, 3 m 5 s, 2 h 10 m or 4 d 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} m"
    return f"{hours // 24} d {hours % 24} h"
