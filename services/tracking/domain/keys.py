"""Which names and texts tracking accepts; rules and messages are MLflow's (utils/validation.py)."""

from __future__ import annotations

import json
import posixpath
import re
from functools import lru_cache

from services.tracking.errors import InvalidKey, InvalidValue

__all__ = [
    "MAX_KEY_LENGTH",
    "check_experiment_name",
    "check_key",
    "check_text",
]

MAX_KEY_LENGTH = 250
MAX_EXPERIMENT_NAME_LENGTH = 500

_KEY = re.compile(r"[/\w.\- :]+\Z")
_LENGTH_OF = {"metric": "Metric name", "parameter": "Param key"}
_KEY_RULE = (
    "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), "
    "colon(:) and slashes (/)."
)


@lru_cache(maxsize=65536)
def _wrong_key(key: str) -> str | None:
    """Return what is wrong with a key; None when nothing is. Keys repeat, so answers are kept."""
    if not key:
        return "A key name must be provided."
    if _KEY.match(key) is None:
        return _KEY_RULE
    normal = posixpath.normpath(key)
    if normal != key or normal == "." or normal.startswith(("..", "/")):
        return (
            "Names may be treated as files in certain cases, and must not resolve to other names "
            f"when treated as such. This name would resolve to '{normal}'"
        )
    return None


def check_key(key: str, kind: str, field: str) -> str:
    """Return `key` unchanged when it may name a metric, parameter or tag.

    Args:
        key: The name.
        kind: What it names, for the message: "metric", "parameter" or "tag".
        field: Path of the field from the request's root.

    Raises:
        InvalidKey: It may not.
    """
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidKey(_too_long(_LENGTH_OF.get(kind, field), MAX_KEY_LENGTH), field)
    wrong = _wrong_key(key)
    if wrong is not None:
        raise InvalidKey(
            f"Invalid value {json.dumps(key)} for parameter '{field}' supplied: {wrong}", field
        )
    return key


def check_text(text: str, limit: int, what: str, field: str) -> str:
    """Return `text` unchanged when it is at most `limit` characters and holds no NUL.

    Raises:
        InvalidValue: It is longer, or holds a NUL, which PostgreSQL cannot keep.
    """
    if len(text) > limit:
        raise InvalidValue(_too_long(what, limit), field)
    if "\x00" in text:
        raise InvalidValue(f"{what} must not hold a NUL character", field)
    return text


def check_experiment_name(name: str, field: str = "experiment.name") -> str:
    """Return `name` unchanged when it may name an experiment.

    Raises:
        InvalidValue: It is empty, longer than 500 characters, or holds a NUL.
    """
    if not name.strip():
        raise InvalidValue(f"Invalid experiment name: '{name}'", field)
    return check_text(name, MAX_EXPERIMENT_NAME_LENGTH, "name", field)


def _too_long(what: str, limit: int) -> str:
    return f"'{what}' exceeds the maximum length of {limit} characters"
