"""Secrets as files, as Docker and Kubernetes mount them: a folder per scope, a file per key."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

from services.inference.errors import SecretNotFound
from tessera_kit.config import Secret

__all__ = ["READERS", "FileSecrets"]

READERS: Final = "_readers"
"""The file of a scope that lists who may read it: a principal per line, `*` for everybody."""
_LARGEST: Final = 64 << 10
_part = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z").match


class FileSecrets:
    """`ports.Secrets` of a folder that somebody else fills; it is read anew every time.

    Args:
        directory: The folder; None for no secrets.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    async def read(self, principal: str, scope: str, key: str) -> Secret:
        """Read a secret."""
        value = await asyncio.to_thread(self._read, principal, scope, key)
        if value is None:
            raise SecretNotFound(
                f"there is no secret {scope}/{key} that {principal!r} may read: it must be the "
                f"file {scope}/{key} of the secrets' folder, and {scope}/{READERS} must list who "
                "may read it"
            )
        return Secret(value)

    def _read(self, principal: str, scope: str, key: str) -> str | None:
        # Names that are checked have no separators, so nothing leaves the folder.
        if self._directory is None or _part(scope) is None or _part(key) is None:
            return None
        folder = self._directory / scope
        try:
            readers = (folder / READERS).read_text("utf-8").split()
            if not {"*", principal}.intersection(readers):
                return None
            with (folder / key).open("rb") as file:
                content = file.read(_LARGEST + 1)
            # Editors and `echo` end a file with a line break, which is not of the secret.
            return content.decode("utf-8").rstrip("\r\n") if len(content) <= _LARGEST else None
        except (OSError, UnicodeDecodeError):
            return None
