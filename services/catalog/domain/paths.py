"""Paths of files below a root, and locations in the object store: neither may lead out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from services.catalog.errors import InvalidLocation, InvalidPath, of_field

__all__ = ["check_location", "check_path", "literal_prefix"]

_LONGEST_PATH = 1024
_LONGEST_SEGMENT = 255
_DRIVE = re.compile(r"[A-Za-z]:")
_LOCATION = re.compile(r"[A-Za-z0-9_.=+@,{}*?/-]{1,1024}\Z")
_NUMBER_RANGE = re.compile(r"\{\d{1,9}\.\.\d{1,9}\}")
_WILDCARD = re.compile(r"[*?{]")


def check_path(path: str, field: str = "path") -> str:
    """Return a relative path with forward slashes that stays below its root.

    The path must be safe as it is and after one percent-decoding, which tools on the way may do.

    Raises:
        InvalidPath: It is empty, absolute, too long, or holds `..`, `.`, an empty segment, a
            backslash, a control character, a drive letter or what is not UTF-8.
    """
    try:
        decoded = unquote(path, errors="strict")
        path.encode()
    except UnicodeError:
        raise of_field(InvalidPath, field, "must be UTF-8") from None
    for form in (path, decoded):
        if (fault := _fault(form)) is not None:
            raise of_field(InvalidPath, field, fault)
    return path


def _fault(path: str) -> str | None:
    if not path or len(path.encode()) > _LONGEST_PATH:
        return f"must have 1 to {_LONGEST_PATH} bytes"
    if "\\" in path or any(ord(character) < 32 or ord(character) == 127 for character in path):
        return "must not hold a backslash or control characters"
    if path.startswith("/") or _DRIVE.match(path):
        return "must be relative"
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            return "must not hold empty, '.' or '..' segments"
        if len(segment.encode()) > _LONGEST_SEGMENT:
            return f"must have segments of at most {_LONGEST_SEGMENT} bytes"
    return None


def check_location(location: str, allowed: Sequence[str]) -> str:
    """Return a key or glob of Parquet files that lies below one of the allowed prefixes.

    Raises:
        InvalidLocation: It could reach outside, or holds a character that means something in a URL.
    """
    field = "table.storage_location"
    if not _LOCATION.match(location):
        rule = "must be a key or glob of letters, digits and _ . = + @ , { } * ? / -"
        raise of_field(InvalidLocation, field, rule)
    plain = _NUMBER_RANGE.sub("0", location)
    if ".." in plain or "//" in plain or plain.startswith("/") or "/./" in f"/{plain}/":
        raise of_field(InvalidLocation, field, "must not hold '..', '.', or empty segments")
    if plain.count("{") != plain.count("}"):
        raise of_field(InvalidLocation, field, "must close its braces")
    fixed = literal_prefix(location)
    if not any(fixed.startswith(prefix) for prefix in allowed):
        rule = f"must start with one of {', '.join(allowed)} before any wildcard"
        raise of_field(InvalidLocation, field, rule)
    return location


def literal_prefix(location: str) -> str:
    """What a glob's keys all start with."""
    match = _WILDCARD.search(location)
    return location if match is None else location[: match.start()]
