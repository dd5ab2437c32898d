"""What Triton is given to serve a model version: a configuration, a program and checked files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Final

from services.inference.domain.datatypes import DATATYPES
from services.inference.domain.endpoint import Device, InstanceGroup
from services.inference.domain.pipeline import wire
from services.inference.domain.runtime_options import RuntimeOptions
from services.inference.domain.signature import Role, Signature, TensorSpec
from services.inference.runtime.flavors import FLAVORS
from services.inference.runtime.triton_config import triton_config
from services.inference.runtime.warm_up import EXAMPLE, WarmUp, make_warm_up

__all__ = ["ModelBundle", "ModelFiles", "environment_files", "make_bundle", "needed"]

_USUAL: Final = RuntimeOptions()
_PROGRAMS: Final = "services.inference.runtime.programs"
_VERSION: Final = "1"
_SMALLEST_DATE: Final = (1980, 1, 1, 0, 0, 0)


_ENVIRONMENT: Final = "environment.json"
"""The file with the variables of a model's process."""


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """A model as the runtime loads it."""

    config: str
    """Triton's ModelConfig as JSON."""
    files: Mapping[str, bytes]
    """Content by path below the model's folder, as `1/model.py`."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model version as it was uploaded."""

    signature: Signature
    """From its manifest."""
    sources: Mapping[str, bytes]
    """Those of its files that `needed` tells, by path."""


def make_bundle(
    name: str,
    signature: Signature,
    instance_count: int,
    sources: Mapping[str, bytes],
    groups: Sequence[InstanceGroup] = (),
    options: RuntimeOptions = _USUAL,
    steps: Sequence[ModelFiles] = (),
) -> ModelBundle:
    """The bundle of a model version.

    Args:
        name: The model's name in the runtime.
        signature: From the version's manifest.
        instance_count: How many processes run it at once.
        sources: The version's files that `needed` tells, as they were uploaded, by path.
        groups: Instances by device; when empty, the runtime places `instance_count` of them.
        options: How the runtime runs it.
        steps: Of a pipeline, in their order.

    Raises:
        InvalidArchive: The files are not safe to load.
        InvalidSignature: The steps do not fit together.
    """
    groups = groups or [InstanceGroup(Device.AUTO, instance_count)]
    warm_up: WarmUp | None = None
    if options.warm_up_count:
        warm_up = make_warm_up(signature, options.warm_up_count, sources.get(EXAMPLE))
    told = {
        **_signature(signature, groups, options),
        "steps": _wires(signature, [step.signature for step in steps]),
    }
    program = resources.files(_PROGRAMS).joinpath(f"{FLAVORS[signature.flavor].program}.py")
    files = {
        "1/model.py": program.read_bytes(),
        "1/programs.zip": _programs(),
        **_model(f"{_VERSION}/", told, signature, sources),
        **(warm_up.files if warm_up is not None else {}),
    }
    for index, step in enumerate(steps):
        told = _signature(step.signature, groups, options)
        files |= _model(_step_folder(index), told, step.signature, step.sources)
    config = triton_config(name, signature, groups, options, warm_up)
    return ModelBundle(config=json.dumps(config), files=files)


def environment_files(steps: Sequence[Signature], variables: Mapping[str, str]) -> dict[str, bytes]:
    """The files that give a model's processes their variables.

    They are no part of the bundle, which is kept: they are made for each load, as they may hold
    secrets.

    Args:
        steps: Those of a pipeline; none for another model.
        variables: By name.
    """
    folders = [_step_folder(index) for index, one in enumerate(steps) if one.flavor.runs_code]
    content = json.dumps(dict(variables)).encode()
    return {f"{folder}{_ENVIRONMENT}": content for folder in folders or [f"{_VERSION}/"]}


def _step_folder(index: int) -> str:
    return f"{_VERSION}/steps/{index}/"


def _model(
    folder: str, told: dict[str, Any], signature: Signature, sources: Mapping[str, bytes]
) -> dict[str, bytes]:
    """What a loader finds in its folder."""
    rule = FLAVORS[signature.flavor]
    told = {**told, **rule.settings(signature), "loader": rule.loader, "file": rule.file}
    return {
        f"{folder}signature.json": json.dumps(told).encode(),
        **{f"{folder}{file}": data for file, data in rule.files(signature, sources).items()},
    }


def _wires(signature: Signature, steps: Sequence[Signature]) -> list[dict[str, Any]]:
    if not signature.steps:
        return []
    wires = zip(signature.steps, wire(signature, steps), strict=True)
    return [
        {"title": step.title, "reads": list(one.reads), "writes": list(one.writes)}
        for step, one in wires
    ]


def needed(signature: Signature, paths: Iterable[str]) -> list[str]:
    """Which of a version's files its bundle is made of."""
    wanted = FLAVORS[signature.flavor].sources
    return [path for path in paths if path == EXAMPLE or wanted(signature, path)]


def _programs() -> bytes:
    """Every program as an archive that Python imports from; the same bytes every time."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        found = (one for one in resources.files(_PROGRAMS).iterdir() if one.name.endswith(".py"))
        for program in sorted(found, key=lambda one: one.name):
            entry = zipfile.ZipInfo(f"programs/{program.name}", _SMALLEST_DATE)
            archive.writestr(entry, program.read_bytes())
    return output.getvalue()


def _signature(
    signature: Signature, groups: Sequence[InstanceGroup], options: RuntimeOptions
) -> dict[str, Any]:
    return {
        "flavor": signature.flavor,
        "batched": signature.batched,
        "streams": signature.streams,
        "stateful": signature.stateful,
        "sequences": None if options.sequences is None else asdict(options.sequences),
        "instance_count": sum(group.count for group in groups),
        "needs_gpu": any(group.device is Device.GPU for group in groups),
        "inputs": [_tensor(spec) for spec in signature.inputs if spec.role is Role.FEATURE],
        "outputs": [_tensor(spec) for spec in signature.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    dtype = "int64" if spec.vocabulary is not None else DATATYPES[spec.datatype].numpy
    tensor: dict[str, Any] = {"name": spec.name, "dtype": dtype, "shape": list(spec.shape)}
    if spec.vocabulary is not None:
        tensor["vocabulary"] = list(spec.vocabulary)
    return tensor
