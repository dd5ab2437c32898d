"""Brings a job's code to the machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.training.adapters.git import Git
from services.training.adapters.processes import attempt_folder
from services.training.domain.job import FileSource, GitSource, PackageSource, Source
from services.training.errors import SourceRefused
from services.training.ports import AttemptKey, Code

__all__ = ["LocalSources"]


class LocalSources:
    """`ports.Sources` below the folder of all jobs.

    Args:
        root: Folder of all jobs' files.
        git: Fetches repositories.
    """

    def __init__(self, root: Path, git: Git) -> None:
        self._root = root
        self._git = git

    async def fetch(self, key: AttemptKey, source: Source) -> Code:
        """Put the code into the attempt's own folder."""
        folder = attempt_folder(self._root, key)
        await asyncio.to_thread(folder.make)
        match source:
            case PackageSource(module):
                return Code(("-m", module), "")
            case FileSource(name, content):
                path = folder.code / name
                await asyncio.to_thread(path.write_text, content, "utf-8")
                return Code((str(path),), "")
            case GitSource():
                commit = await self._git.fetch(source, folder.code, folder.tmp)
                entry = await asyncio.to_thread(_entry, folder.code, source)
                return Code((str(entry),), str(folder.code), str(folder.code), commit)


def _entry(root: Path, source: GitSource) -> Path:
    entry = (root / source.path).resolve()
    if not entry.is_relative_to(root.resolve()):
        raise SourceRefused(f"{source.path} leaves the repository")
    if not entry.is_file():
        raise SourceRefused(f"there is no file {source.path} in the repository")
    return entry
