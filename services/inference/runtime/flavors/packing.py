"""A version's files as one archive, for models that need a folder of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from services.inference.errors import InvalidArchive

__all__ = ["PACKED", "packed"]

PACKED: Final = "model.zip"
"""The archive's name in a bundle."""
_DATE: Final = (1980, 1, 1, 0, 0, 0)


def packed(sources: Mapping[str, bytes]) -> bytes:
    """Files by path as one archive; the same bytes every time.

    Raises:
        InvalidArchive: A path leaves its root.
    """
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(sources):
            parts = PurePosixPath(path).parts
            if path.startswith("/") or ".." in parts or "\\" in path or not parts:
                raise InvalidArchive(f"the model may not hold a file {path[:100]!r}")
            archive.writestr(zipfile.ZipInfo(path, _DATE), sources[path])
    return output.getvalue()
