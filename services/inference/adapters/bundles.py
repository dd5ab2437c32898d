"""Bundles of served models on local disk, so that a restarted runtime gets them back at once."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from services.inference.runtime.bundle import ModelBundle

__all__ = ["FileBundles"]

_CONFIG = "config.json"
_UNFINISHED = ".new"


class FileBundles:
    """A folder per model; what it loses is fetched from the catalog again.

    Args:
        directory: Where the folders lie; made when missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def get(self, name: str) -> ModelBundle | None:
        """The bundle of a model; None when it is not here."""
        return await asyncio.to_thread(self._read, name)

    async def put(self, name: str, bundle: ModelBundle) -> None:
        """Keep a bundle."""
        await asyncio.to_thread(self._write, name, bundle)

    async def keep_only(self, names: frozenset[str]) -> None:
        """Remove the bundles of all other models."""
        await asyncio.to_thread(self._sweep, names)

    def _read(self, name: str) -> ModelBundle | None:
        folder = self._directory / name
        try:
            config = (folder / _CONFIG).read_text("utf-8")
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file() and path != folder / _CONFIG
            }
        except OSError:
            return None
        return ModelBundle(config, files)

    def _write(self, name: str, bundle: ModelBundle) -> None:
        new = self._directory / f"{name}{_UNFINISHED}"
        shutil.rmtree(new, ignore_errors=True)
        for path, content in bundle.files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes(content)
        (new / _CONFIG).write_text(bundle.config, "utf-8")
        # Complete or not there at all: the folder gets its name last.
        shutil.rmtree(self._directory / name, ignore_errors=True)
        new.rename(self._directory / name)

    def _sweep(self, names: frozenset[str]) -> None:
        if not self._directory.is_dir():
            return
        for folder in self._directory.iterdir():
            # A large one is being written for seconds.
            if folder.name.removesuffix(_UNFINISHED) not in names:
                shutil.rmtree(folder, ignore_errors=True)
