"""What several verbs take: whole numbers within a range, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final, cast

import typer

__all__ = [
    "LARGEST",
    "LARGEST_INT32",
    "joined_ids",
    "new_file",
    "read_text",
    "time_span",
    "whole_number",
]

LARGEST: Final = 2**63 - 1
"""The largest number of the contracts' 64-bit fields."""
LARGEST_INT32: Final = 2**31 - 1
"""The largest number of the contracts' 32-bit fields."""

_SPAN: Final = re.compile(
    "".join(
        rf"(?:(?P<{name}>\d+(?:\.\d+)?){name[0]})?"
        for name in ("days", "hours", "minutes", "seconds")
    ),
    re.ASCII,
)
_CENTURY: Final = timedelta(days=36_500)
_MOST_OF_A_SPAN: Final = 1e10


def whole_number(text: str, most: int = LARGEST) -> int | None:
    """The whole number from 0 to `most` that `text` is; None where it is none."""
    # Python's own digits are those of every script, and of superscripts.
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(most)):
        return None
    number = int(text)
    return number if number <= most else None


def time_span(text: str) -> timedelta:
    """A span of time as `7d`, `12h`, `1.5h30m` or `1d2h3m4s`, as MLflow's commands take it.

    Raises:
        typer.BadParameter: It is none, or longer than a hundred years.
    """
    match = _SPAN.fullmatch(text)
    if match is None or not text:
        raise typer.BadParameter(f"{text!r} is no span of time such as 7d, 12h or 1d2h3m4s")
    parts = {name: float(number) for name, number in match.groupdict().items() if number}
    if sum(parts.values()) > _MOST_OF_A_SPAN or timedelta(**parts) > _CENTURY:
        raise typer.BadParameter(f"{text!r} is more than 36500d")
    return timedelta(**parts)


def joined_ids(texts: Iterable[str] | None) -> list[str]:
    """Ids that are given one by one, or several joined by commas."""
    return [one.strip() for text in texts or () for one in text.split(",") if one.strip()]


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that is at `path` when the block has ended, and only if it did not fail.

    What is there already and is no file, as a pipe or a device, is written to as it is.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "there is no such folder", str(path.parent))
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        partial = Path(file.name)
        try:
            yield cast("BinaryIO", file)
            file.close()
            # As any other new file, where a temporary one is its owner's alone.
            partial.chmod(0o666 & ~_umask())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        typer.BadParameter: It is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{path} is not UTF-8 text (byte {error.start})") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
