"""Bounded logs: a process appends to its file; the supervisor cuts what has grown too long."""

from __future__ import annotations

import shutil
from pathlib import Path

MAX_BYTES = 16 * 2**20
KEPT = 2


def rotate(path: Path, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> bool:
    """Empties a file that is longer than `max_bytes`; its content is kept as `<name>.1`.

    The process keeps its descriptor (opened to append), so that the supervisor is never between a
    process and its log; what is written between copy and cut, microseconds, is lost. Returns
    whether the file was cut.
    """
    if not path.exists() or path.stat().st_size <= max_bytes:
        return False
    for number in range(kept, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    with path.open("r+b") as file:
        file.truncate(0)
    return True


def tail(path: Path, lines: int) -> list[str]:
    """The last `lines` lines of a log; none where there is no log."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        length = file.seek(0, 2)
        # 400 bytes a line is more than our lines have; a longer one only shortens the answer.
        file.seek(max(0, length - 400 * lines))
        text = file.read().decode(errors="replace")
    return text.splitlines()[-lines:] if lines else []
