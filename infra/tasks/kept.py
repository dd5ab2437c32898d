"""Committed files that code makes: written anew by `generate`, compared by `check`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["keep"]

ROOT = Path(__file__).resolve().parents[2]


def keep(
    arguments: Sequence[str], made: Mapping[Path, str], script: str, *, there: Iterable[Path] = ()
) -> int:
    """Writes the files, or checks that they are current; returns the exit status.

    Args:
        arguments: `generate` or `check`, alone.
        made: What the files are to hold.
        script: The path of what makes them, below the repository's root; named where they are
            stale.
        there: Files that there are; those that are not made are stale.
    """
    if arguments == ["generate"]:
        for path, text in made.items():
            path.write_text(text)
        return 0
    if arguments == ["check"]:
        stale = [
            path for path, text in made.items() if not path.exists() or path.read_text() != text
        ]
        stale += [path for path in there if path not in made]
        for path in stale:
            name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            sys.stderr.write(f"{name} is stale; run {script} generate\n")
        return 1 if stale else 0
    sys.stderr.write(f"usage: {script} generate | check\n")
    return 2
