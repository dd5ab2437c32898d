"""Single values of requests, read without a message: the hot paths parse JSON by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from services.tracking.domain.lifecycle import Micros, fits_64_bits
from services.tracking.mlflow.errors import InvalidParameter
from services.tracking.mlflow.messages import missing, wrong_type

__all__ = [
    "float_of",
    "integer_of",
    "micros_of_millis",
    "run_id_in",
    "run_id_of",
    "text_of",
    "texts_of",
]

LAST_MILLI: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last time that is kept."""
_NAMED: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def run_id_of(message: Any) -> str:
    """Return a request's run id; old clients call it `run_uuid`."""
    run_id: str = message.run_id or message.run_uuid
    return run_id


def run_id_in(fields: Mapping[str, Any]) -> str:
    """As `run_id_of`, of a JSON object.

    Raises:
        InvalidParameter: It is missing, or no text.
    """
    found = fields.get("run_id") or fields.get("run_uuid") or fields.get("runId")
    if not found:
        raise missing("run_id")
    if not isinstance(found, str):
        raise wrong_type("run_id", found)
    return found


def text_of(fields: Mapping[str, Any], name: str, path: str = "", *, default: str = "") -> str:
    """Return a text; the default when it is not there.

    Raises:
        InvalidParameter: It is something else.
    """
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise wrong_type(path or name, value)
    if not value.isascii():
        _check_unicode(value, path or name)
    return value


def texts_of(fields: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return a list of JSON objects; an empty one when it is not there.

    Raises:
        InvalidParameter: It is something else.
    """
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise wrong_type(name, value)
    return value


def float_of(value: Any, path: str) -> float:
    """Return a number; proto JSON also writes it as a text, NaN and the infinities by name.

    Raises:
        InvalidParameter: It is something else.
    """
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise wrong_type(path, value) from None
    if isinstance(value, str):
        named = _NAMED.get(value)
        if named is not None:
            return named
        try:
            return float(value)
        except ValueError:
            pass
    raise wrong_type(path, value)


def integer_of(value: Any, path: str) -> int:
    """Return a whole number of 64 bits; proto JSON also writes it as a text.

    Raises:
        InvalidParameter: It is something else.
    """
    number = value
    if type(value) is float and value.is_integer():
        number = int(value)
    elif isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            raise wrong_type(path, value) from None
    if type(number) is not int or not fits_64_bits(number):
        raise wrong_type(path, value)
    return number


def micros_of_millis(value: int, path: str) -> Micros:
    """Return a time that is given in milliseconds.

    Raises:
        InvalidParameter: It lies before 1970 or after the year 9999.
    """
    if not 0 <= value <= LAST_MILLI:
        raise InvalidParameter(f"{path} must lie between the years 1970 and 9999, got {value}")
    return value * 1000


def _check_unicode(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidParameter(f"{path} is not valid Unicode text") from None
