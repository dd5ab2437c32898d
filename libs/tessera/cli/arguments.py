"""What several verbs take: whole numbers within a range, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

import typer

__all__ = ["LARGEST", "LARGEST_INT32", "new_file", "read_text", "whole_number"]

LARGEST: Final = 2**63 - 1
"""The largest number of the contracts' 64-bit fields."""
LARGEST_INT32: Final = 2**31 - 1
"""The largest number of the contracts' 32-bit fields."""


def whole_number(text: str, most: int = LARGEST) -> int | None:
    """The whole number from 0 to `most` that `text` is; None where it is none."""
    # Python's own digits are those of every script, and of superscripts.
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(most)):
        return None
    number = int(text)
    return number if number <= most else None


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
