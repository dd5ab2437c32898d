"""Small archives that look like a model's file."""

from __future__ import annotations

import io
import zipfile


def torchscript_archive(number: int) -> bytes:
    """An archive that passes the check of TorchScript files, different for each number."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version"):
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), b"%d" % number)
    return output.getvalue()
