"""Files of model versions that say how to serve them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

Files: TypeAlias = Mapping[str, bytes | Path]
"""Content, or the path of a local file, by the file's path."""
_MANIFEST: Final = "model.json"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model.

    When all shapes of a model begin with -1 and have a second size, it is given the rows of several
    requests together.
    """

    name: str
    datatype: str
    """The protocol's name: BOOL, INT8 to INT64, UINT8 to UINT64, FP16, FP32, FP64, BYTES."""
    shape: Sequence[int]
    """Sizes; -1 where any will do."""


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """A model version that a pipeline runs."""

    model_name: str
    """The registered model's full name."""
    version: int
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Which tensor of the pipeline each of its inputs is; that of its own name when not here."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Which tensor of the pipeline each of its outputs becomes; likewise."""


def pipeline_files(
    steps: Sequence[PipelineStep],
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    streams: bool,
) -> dict[str, bytes | Path]:
    """The files of a version that is a pipeline; see `AsyncModels.register_pipeline`."""
    told = [
        {
            "model": step.model_name,
            "version": step.version,
            "inputs": dict(step.inputs),
            "outputs": dict(step.outputs),
        }
        for step in steps
    ]
    return {_MANIFEST: _manifest("pipeline", inputs, outputs, streams=streams, steps=told)}


def class_files(
    entry: str,
    code: Path | Files,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    streams: bool,
    stateful: bool,
    arguments: Mapping[str, Any],
    requirements: Sequence[str],
    timeout_seconds: float,
    files: Files,
) -> dict[str, bytes | Path]:
    """The files of a version that is a Python class; see `AsyncModels.register_class`.

    Raises:
        ValueError: The code has no module of the entry's name.
    """
    manifest = _manifest(
        *("python", inputs, outputs),
        entry=entry,
        arguments=dict(arguments),
        streams=streams,
        stateful=stateful,
        timeout_seconds=timeout_seconds,
    )
    own = {f"code/{path}": content for path, content in _code(code)}
    module = "code/" + entry.partition(":")[0].replace(".", "/")
    if not {f"{module}.py", f"{module}/__init__.py"} & own.keys():
        raise ValueError(f"{entry!r}: the code has neither {module[5:]}.py nor a package of it")
    needed = {"requirements.txt": "".join(f"{one}\n" for one in requirements).encode()}
    # The manifest comes last: with it the version is whole.
    return {
        **files,
        **own,
        **(needed if requirements else {}),
        _MANIFEST: manifest,
    }


def _manifest(
    flavor: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], **more: Any
) -> bytes:
    content = {
        "flavor": flavor,
        **more,
        "inputs": [_tensor(spec) for spec in inputs],
        "outputs": [_tensor(spec) for spec in outputs],
    }
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _code(code: Path | Files) -> Iterator[tuple[str, bytes | Path]]:
    if isinstance(code, Mapping):
        yield from code.items()
    elif code.is_dir():
        for path in sorted(code.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{code.name}/{path.relative_to(code).as_posix()}", path
    else:
        yield code.name, code
