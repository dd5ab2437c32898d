"""What a model takes and gives: the manifest `model.json` of a model version, checked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from services.inference.domain.datatypes import BYTES, DATATYPES
from services.inference.domain.steps import PipelineStep, read_steps
from services.inference.errors import InvalidSignature
from tessera_kit.errors import FieldViolation

__all__ = ["MANIFEST", "Flavor", "Role", "Signature", "TensorSpec", "parse_manifest"]

MANIFEST: Final = "model.json"
"""Path of the manifest among a model version's files."""
_LARGEST_MANIFEST: Final = 8 << 20
_MOST_TENSORS: Final = 512
_MOST_WORDS: Final = 1_000_000
_MOST_DIMENSIONS: Final = 8
_LARGEST_DIMENSION: Final = 2**31 - 1
_LONGEST_SECONDS: Final = 3600
_name = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}\Z").match
_entry = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z", re.ASCII).match
_path = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*\Z").match


class Flavor(StrEnum):
    """How a model's file is loaded."""

    TORCH_EXPORT = "torch_export"
    TORCHSCRIPT = "torchscript"
    TORCH_MODULE = "torch_module"
    TORCH_COMPILED = "torch_compiled"
    ONNX = "onnx"
    MLFLOW = "mlflow"
    PYTHON = "python"
    PIPELINE = "pipeline"

    @property
    def runs_code(self) -> bool:
        """Whether loading a model of it runs its author's code, so that it must be allowed."""
        return self in _WITH_CODE


_MANIFEST_FLAVORS: Final = tuple(one for one in Flavor if one is not Flavor.MLFLOW)
_WITH_CODE: Final = frozenset(
    {Flavor.TORCH_MODULE, Flavor.TORCH_COMPILED, Flavor.MLFLOW, Flavor.PYTHON}
)
_WITHOUT_TEXTS: Final = frozenset(
    {Flavor.TORCH_EXPORT, Flavor.TORCHSCRIPT, Flavor.TORCH_MODULE, Flavor.TORCH_COMPILED}
)
_CLASSES: Final = frozenset({Flavor.TORCH_MODULE, Flavor.PYTHON})
_WITHOUT_FILE: Final = frozenset({Flavor.PYTHON, Flavor.PIPELINE})
_STREAMING: Final = frozenset({Flavor.PYTHON, Flavor.PIPELINE})
_STATEFUL: Final = frozenset({Flavor.PYTHON})


class Role(StrEnum):
    """What an input is for."""

    FEATURE = "FEATURE"
    """The model is called with it."""
    METADATA = "METADATA"
    """Accepted and logged, not shown to the model; a request may leave it out."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named input or output."""

    name: str
    datatype: str
    """The protocol's name, as `FP32`."""
    shape: tuple[int, ...]
    """Sizes; -1 where any will do. The first one counts rows when it is -1."""
    role: Role = Role.FEATURE
    vocabulary: tuple[str, ...] | None = None
    """Known texts of a BYTES input: the model gets their indexes, `len(vocabulary)` for others."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, and how its file is loaded."""

    flavor: Flavor
    file: str
    """Name of the model's file among the version's files."""
    inputs: tuple[TensorSpec, ...]
    """In the order in which the model is called with the FEATURE ones."""
    outputs: tuple[TensorSpec, ...]
    """In the order in which the model returns them."""
    streams: bool = False
    """Whether a request has any number of responses, none included."""
    entry: str = ""
    """The class, `module:Class`, of a flavor that brings one."""
    arguments: str = "{}"
    """What the class is made with, by name: a JSON object."""
    stateful: bool = False
    """Whether it keeps state from request to request of a sequence."""
    timeout_seconds: float = 60.0
    """How long a class may take to answer, and to give each response of a stream."""
    steps: tuple[PipelineStep, ...] = ()
    """The model versions that a pipeline runs, in their order."""

    @property
    def batched(self) -> bool:
        """Whether requests can be put together along the first size of every tensor."""
        tensors = (*self.inputs, *self.outputs)
        return all(len(spec.shape) > 1 and spec.shape[0] == -1 for spec in tensors)

    def same_interface(self, other: Signature) -> bool:
        """Whether a caller cannot tell the two apart; vocabularies and files may differ."""

        def faces(specs: tuple[TensorSpec, ...]) -> set[tuple[object, ...]]:
            return {(spec.name, spec.datatype, spec.shape, spec.role) for spec in specs}

        return (
            self.streams == other.streams
            and faces(self.inputs) == faces(other.inputs)
            and faces(self.outputs) == faces(other.outputs)
        )


def parse_manifest(data: bytes) -> Signature:
    """The signature that a manifest holds.

    Raises:
        InvalidSignature: It is not valid; the violations name the entries at fault.
    """
    if len(data) > _LARGEST_MANIFEST:
        raise InvalidSignature(f"{MANIFEST} is larger than {_LARGEST_MANIFEST} bytes")
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidSignature(f"{MANIFEST} is not JSON in UTF-8") from None
    reader = _Reader()
    signature = reader.signature(manifest)
    if reader.violations or signature is None:
        first = reader.violations[0]
        raise InvalidSignature(
            f"{MANIFEST}: {first.field} {first.description}", violations=reader.violations
        )
    return signature


class _Reader:
    """Reads a manifest and gathers everything that is wrong with it."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def signature(self, manifest: Any) -> Signature | None:
        if not isinstance(manifest, dict):
            self._wrong("", "must be a JSON object")
            return None
        flavor = manifest.get("flavor")
        flavor = flavor if isinstance(flavor, str) else ""
        if flavor not in _MANIFEST_FLAVORS:
            self._wrong("flavor", f"must be one of {', '.join(_MANIFEST_FLAVORS)}")
        # Of these no file stands for the version.
        file = MANIFEST if flavor in _WITHOUT_FILE else manifest.get("file")
        if not isinstance(file, str) or len(file) > 255 or _path(file) is None:
            self._wrong("file", "must be the name of the model's file, without folders")
        inputs = self._tensors(manifest, "inputs")
        outputs = self._tensors(manifest, "outputs")
        self._whole(inputs, outputs)
        if flavor in _WITHOUT_TEXTS:
            self._without_texts(inputs, outputs)
        entry, arguments = self._class(manifest) if flavor in _CLASSES else ("", "{}")
        streams = self._kind(manifest, "streams", _STREAMING)
        stateful = self._kind(manifest, "stateful", _STATEFUL)
        seconds = self._seconds(manifest)
        steps: tuple[PipelineStep, ...] = ()
        if flavor == Flavor.PIPELINE:
            steps = self._steps(manifest, inputs)
        if self.violations:
            return None
        return Signature(
            Flavor(flavor),
            str(file),
            tuple(inputs),
            tuple(outputs),
            streams=streams,
            entry=entry,
            arguments=arguments,
            stateful=stateful,
            timeout_seconds=seconds,
            steps=steps,
        )

    def _steps(
        self, manifest: dict[str, Any], inputs: list[TensorSpec]
    ) -> tuple[PipelineStep, ...]:
        for index, spec in enumerate(inputs):
            if spec.vocabulary is not None:
                self._wrong(f"inputs[{index}].vocabulary", "is for a step's input")
        return read_steps(manifest.get("steps"), self._wrong)

    def _kind(self, manifest: dict[str, Any], key: str, flavors: frozenset[Flavor]) -> bool:
        found = manifest.get(key, False)
        if not isinstance(found, bool):
            self._wrong(key, "must be true or false")
        elif found and manifest.get("flavor") not in flavors:
            self._wrong(key, f"is for models of flavor {' and '.join(sorted(flavors))} only")
        return found is True

    def _seconds(self, manifest: dict[str, Any]) -> float:
        found = manifest.get("timeout_seconds", 60)
        if type(found) not in (int, float) or not 1 <= found <= _LONGEST_SECONDS:
            self._wrong("timeout_seconds", f"must be a number from 1 to {_LONGEST_SECONDS}")
            return 0.0
        return float(found)

    def _class(self, manifest: dict[str, Any]) -> tuple[str, str]:
        entry, arguments = manifest.get("entry"), manifest.get("arguments", {})
        if not isinstance(entry, str) or len(entry) > 255 or _entry(entry) is None:
            self._wrong("entry", "must be 'module:Class', of a module in the version's folder code")
        if not isinstance(arguments, dict):
            self._wrong("arguments", "must be a JSON object")
        return str(entry), json.dumps(arguments)

    def _whole(self, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> None:
        if inputs and not any(spec.role is Role.FEATURE for spec in inputs):
            self._wrong("inputs", "must hold at least one with role FEATURE")
        for index, spec in enumerate(inputs):
            if spec.role is Role.METADATA and spec.vocabulary is not None:
                self._wrong(f"inputs[{index}].vocabulary", "is for FEATURE inputs only")
        for index, spec in enumerate(outputs):
            if spec.vocabulary is not None or spec.role is not Role.FEATURE:
                self._wrong(f"outputs[{index}]", "has neither a role nor a vocabulary")

    def _without_texts(self, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> None:
        for index, spec in enumerate(inputs):
            if spec.role is Role.FEATURE and spec.datatype == BYTES and spec.vocabulary is None:
                self._wrong(f"inputs[{index}].vocabulary", "is needed: torch has no texts")
        for index, spec in enumerate(outputs):
            if spec.datatype == BYTES:
                self._wrong(f"outputs[{index}].datatype", "cannot be BYTES: torch has no texts")

    def _tensors(self, manifest: dict[str, Any], key: str) -> list[TensorSpec]:
        entries = manifest.get(key)
        if not isinstance(entries, list) or not 1 <= len(entries) <= _MOST_TENSORS:
            self._wrong(key, f"must be a list of 1 to {_MOST_TENSORS} tensors")
            return []
        specs = [self._tensor(entry, f"{key}[{i}]") for i, entry in enumerate(entries)]
        found = [spec for spec in specs if spec is not None]
        seen: set[str] = set()
        for index, spec in enumerate(found):
            if spec.name in seen:
                self._wrong(f"{key}[{index}].name", f"{spec.name!r} is given twice")
            seen.add(spec.name)
        return found

    def _tensor(self, entry: Any, path: str) -> TensorSpec | None:
        if not isinstance(entry, dict):
            self._wrong(path, "must be a JSON object")
            return None
        before = len(self.violations)
        name, datatype, role = entry.get("name"), entry.get("datatype"), entry.get("role")
        if not isinstance(name, str) or _name(name) is None:
            self._wrong(f"{path}.name", "must be a name of letters, digits, '_', '-' and '.'")
        if datatype not in DATATYPES:
            self._wrong(f"{path}.datatype", f"must be one of {', '.join(DATATYPES)}")
        role = Role.FEATURE if role is None else role
        if role not in set(Role):
            self._wrong(f"{path}.role", "must be FEATURE or METADATA")
        shape = self._shape(entry.get("shape"), f"{path}.shape")
        vocabulary = self._vocabulary(entry.get("vocabulary"), datatype, f"{path}.vocabulary")
        if len(self.violations) > before:
            return None
        return TensorSpec(str(name), str(datatype), shape, Role(role), vocabulary)

    def _shape(self, shape: Any, path: str) -> tuple[int, ...]:
        fits = isinstance(shape, list) and 1 <= len(shape) <= _MOST_DIMENSIONS
        if not fits or not all(
            type(size) is int and (size == -1 or 1 <= size <= _LARGEST_DIMENSION) for size in shape
        ):
            self._wrong(path, f"must be 1 to {_MOST_DIMENSIONS} sizes, each -1 or at least 1")
            return ()
        return tuple(shape)

    def _vocabulary(self, words: Any, datatype: Any, path: str) -> tuple[str, ...] | None:
        if words is None:
            return None
        if datatype != BYTES:
            self._wrong(path, "is for BYTES inputs only")
        elif (
            not isinstance(words, list)
            or not 1 <= len(words) <= _MOST_WORDS
            or not all(isinstance(word, str) for word in words)
            or len(set(words)) != len(words)
        ):
            self._wrong(path, f"must be 1 to {_MOST_WORDS} texts that differ")
        elif any("\ud800" <= character <= "\udfff" for word in words for character in word):
            self._wrong(path, "holds text that is not UTF-8")
        else:
            return tuple(words)
        return None

    def _wrong(self, field: str, description: str) -> None:
        self.violations.append(FieldViolation(field or MANIFEST, description))
