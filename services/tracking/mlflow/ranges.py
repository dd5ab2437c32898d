"""Parts of files, as `Range` headers ask for them: a download that broke goes on where it was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.tracking.domain.artifacts import Artifact
from services.tracking.mlflow.errors import RangeNotSatisfiable

__all__ = ["Range", "range_of"]

_ONE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes to send, and how to say so."""

    offset: int
    length: int
    status: int
    """206 for a part, 200 for all."""
    headers: Mapping[str, str]


def range_of(headers: Mapping[str, str], file: Artifact) -> Range:
    """Return what a request's headers ask of a file (RFC 9110, section 14).

    One range is served. Several, a wrong one, or one that is of another state of the file
    (`If-Range`) mean the whole file, as the standard allows.

    Raises:
        RangeNotSatisfiable: It begins behind the file's end.
    """
    about = {"accept-ranges": "bytes", "etag": f'"{file.etag}"'}
    asked = _ONE.match(headers.get("range", ""))
    state = headers.get("if-range", about["etag"])
    if asked is None or asked[0] == "bytes=-" or state != about["etag"]:
        return Range(0, file.size, 200, {**about, "content-length": str(file.size)})
    first, last = asked[1], asked[2]
    if first:
        start, end = int(first), min(int(last) + 1 if last else file.size, file.size)
        if last and int(last) < start:
            return Range(0, file.size, 200, {**about, "content-length": str(file.size)})
    else:
        start, end = max(file.size - int(last), 0), file.size
    if start >= end:
        raise RangeNotSatisfiable(f"the file has {file.size} bytes; there is nothing at {asked[0]}")
    told = {
        "content-length": str(end - start),
        "content-range": f"bytes {start}-{end - 1}/{file.size}",
    }
    return Range(start, end - start, 206, {**about, **told})
