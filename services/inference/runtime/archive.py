"""Rebuilds a model's file from the parts that are safe to load, and refuses the rest.

`torch.export.load` unpickles sample inputs and odd constants, compiles guard code, evaluates shape
expressions and loads native libraries when an archive asks for it (torch 2.13,
`torch/export/pt2_archive/_package.py` and `torch/_export/serde/serialize.py`). So a stranger's
archive is never loaded: one that holds only weights as raw bytes and a graph of known operators is
written anew from its checked parts. `torch.jit.load` has a reader of its own that makes no Python
objects; its source is searched for the few operators that reach the file system or native classes.
"""

from __future__ import annotations

import io
import re
import zipfile
from typing import Final

from services.inference.domain.signature import Flavor
from services.inference.errors import InvalidArchive
from services.inference.runtime.graph import clean_program, clean_weights

__all__ = ["rebuild"]

_MOST_ENTRIES: Final = 100_000
_LARGEST_TEXT: Final = 256 << 20
_SPARE: Final = 16 << 20
_EXPORT_PLAIN: Final = re.compile(
    r"(data/weights/weight_\d+|data/constants/tensor_\d+|archive_format|archive_version|byteorder"
    r"|\.data/version|\.data/serialization_id)\Z"
)
_EXPORT_DROPPED: Final = re.compile(r"(data/sample_inputs/model\.pt|extra/.*)\Z", re.DOTALL)
_PROGRAM: Final = "models/model.json"
_WEIGHTS: Final = "data/weights/model_weights_config.json"
_CONSTANTS: Final = "data/constants/model_constants_config.json"
_SAMPLE_INPUTS: Final = "data/sample_inputs/model.pt"

_SCRIPT_PLAIN: Final = re.compile(
    r"(data/\d+|constants/\d+|data\.pkl|constants\.pkl|version|byteorder"
    r"|\.data/version|\.data/serialization_id)\Z"
)
_SCRIPT_SOURCE: Final = re.compile(r"code/(\w+/)*\w+\.py\Z", re.ASCII)
_SCRIPT_DROPPED: Final = re.compile(r"(code/.*\.debug_pkl|extra/.*|attributes\.pkl)\Z", re.DOTALL)
_FORBIDDEN_SOURCE: Final = re.compile(
    r"\b(from_file|torch\.(save|load|classes)|ops\.(?!aten\b|prims?\b)\w+|__torch__\.torch\.classes"
    r"|PythonOp|CallFunction)\b"
)


def rebuild(flavor: Flavor, data: bytes) -> bytes:
    """The archive with only what is safe to load.

    Args:
        flavor: How it will be loaded.
        data: The file as it was uploaded.

    Raises:
        InvalidArchive: It is no archive of its flavor, or holds what is not loaded from strangers;
            the message names the part.
    """
    parts = _read(data)
    checked = _checked_export(parts) if flavor is Flavor.TORCH_EXPORT else _checked_script(parts)
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name, content in checked.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), content)
    return output.getvalue()


def _read(data: bytes) -> dict[str, bytes]:
    """Every entry's content by its name below the archive's root folder."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > _MOST_ENTRIES:
                raise InvalidArchive(f"the model's file has more than {_MOST_ENTRIES} parts")
            # Tensors are stored as they are and only source is deflated: more is a trap.
            if sum(entry.file_size for entry in entries) > 10 * len(data) + _SPARE:
                raise InvalidArchive("the model's file is far larger unpacked than packed")
            parts: dict[str, bytes] = {}
            roots = set()
            for entry in entries:
                root, _, name = entry.filename.partition("/")
                roots.add(root)
                if name in parts or not name:
                    raise InvalidArchive(f"the model's file has a doubled part {name[:100]!r}")
                parts[name] = archive.read(entry)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError):
        raise InvalidArchive("the model's file is not an archive that torch wrote") from None
    if len(roots) != 1:
        raise InvalidArchive("the model's file must have one root folder")
    return parts


def _checked_export(parts: dict[str, bytes]) -> dict[str, bytes]:
    checked: dict[str, bytes] = {}
    for name, content in parts.items():
        if _EXPORT_PLAIN.match(name):
            checked[name] = content
        elif name == _PROGRAM:
            checked[name] = clean_program(_text(name, content))
        elif name in (_WEIGHTS, _CONSTANTS):
            prefix = "weight_" if name == _WEIGHTS else "tensor_"
            checked[name] = clean_weights(_text(name, content), prefix)
        elif not _EXPORT_DROPPED.match(name):
            raise InvalidArchive(f"a torch_export archive may not hold {name[:100]!r}")
    for name in (_PROGRAM, _WEIGHTS, _CONSTANTS, "archive_version"):
        if name not in checked:
            raise InvalidArchive(f"the model's file is no torch_export archive: {name} is missing")
    # Empty, so that the loader finds no pickled example to read.
    checked[_SAMPLE_INPUTS] = b""
    return checked


def _checked_script(parts: dict[str, bytes]) -> dict[str, bytes]:
    checked: dict[str, bytes] = {}
    for name, content in parts.items():
        if _SCRIPT_SOURCE.match(name):
            text = _text(name, content)
            forbidden = _FORBIDDEN_SOURCE.search(text)
            if forbidden is not None:
                raise InvalidArchive(f"{name[:100]} uses {forbidden[0]!r}, which is not served")
            checked[name] = content
        elif _SCRIPT_PLAIN.match(name):
            checked[name] = content
        elif not _SCRIPT_DROPPED.match(name):
            raise InvalidArchive(f"a torchscript archive may not hold {name[:100]!r}")
    for name in ("data.pkl", "constants.pkl", "version"):
        if name not in checked:
            raise InvalidArchive(f"the model's file is no torchscript archive: {name} is missing")
    return checked


def _text(name: str, content: bytes) -> str:
    if len(content) > _LARGEST_TEXT:
        raise InvalidArchive(f"{name[:100]} is larger than {_LARGEST_TEXT} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidArchive(f"{name[:100]} is not UTF-8 text") from None
