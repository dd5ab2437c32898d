"""What Triton is given to serve a model version: a configuration, a program and checked files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from services.inference.domain.datatypes import DATATYPES
from services.inference.domain.endpoint import Device, InstanceGroup
from services.inference.domain.signature import Role, Signature, TensorSpec
from services.inference.runtime.flavors import FLAVORS

__all__ = ["ENVIRONMENT", "MAX_BATCH_ROWS", "ModelBundle", "make_bundle", "needed"]

MAX_BATCH_ROWS: Final = 8192
"""Most rows of one request, and of the batch that Triton puts together from several."""
_KINDS: Final = {Device.CPU: "KIND_CPU", Device.GPU: "KIND_GPU"}
_PROGRAMS: Final = "services.inference.runtime.programs"
_SMALLEST_DATE: Final = (1980, 1, 1, 0, 0, 0)


ENVIRONMENT: Final = "1/environment.json"
"""The file with the variables of a model's process. It is no part of the bundle, which is kept: it
is made for each load, as it may hold secrets."""


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """A model as the runtime loads it."""

    config: str
    """Triton's ModelConfig as JSON."""
    files: Mapping[str, bytes]
    """Content by path below the model's folder, as `1/model.py`."""


def make_bundle(
    name: str,
    signature: Signature,
    instance_count: int,
    sources: Mapping[str, bytes],
    groups: Sequence[InstanceGroup] = (),
) -> ModelBundle:
    """The bundle of a model version.

    Args:
        name: The model's name in the runtime.
        signature: From the version's manifest.
        instance_count: How many processes run it at once.
        sources: The version's files that `needed` tells, as they were uploaded, by path.
        groups: Instances by device; when empty, the runtime places `instance_count` of them.

    Raises:
        InvalidArchive: The files are not safe to load.
    """
    rule = FLAVORS[signature.flavor]
    groups = groups or [InstanceGroup(Device.AUTO, instance_count)]
    told = {**_signature(signature, groups), **rule.settings(signature)}
    told |= {"loader": rule.loader, "file": rule.file}
    program = resources.files(_PROGRAMS).joinpath(f"{rule.program}.py")
    return ModelBundle(
        config=json.dumps(_config(name, signature, groups)),
        files={
            "1/model.py": program.read_bytes(),
            "1/programs.zip": _programs(),
            "1/signature.json": json.dumps(told).encode(),
            **{f"1/{file}": data for file, data in rule.files(signature, sources).items()},
        },
    )


def needed(signature: Signature, paths: Iterable[str]) -> list[str]:
    """Which of a version's files its bundle is made of."""
    wanted = FLAVORS[signature.flavor].sources
    return [path for path in paths if wanted(signature, path)]


def _programs() -> bytes:
    """Every program as an archive that Python imports from; the same bytes every time."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        found = (one for one in resources.files(_PROGRAMS).iterdir() if one.name.endswith(".py"))
        for program in sorted(found, key=lambda one: one.name):
            entry = zipfile.ZipInfo(f"programs/{program.name}", _SMALLEST_DATE)
            archive.writestr(entry, program.read_bytes())
    return output.getvalue()


def _config(name: str, signature: Signature, groups: Sequence[InstanceGroup]) -> dict[str, Any]:
    batched = signature.batched
    config: dict[str, Any] = {
        "name": name,
        "backend": "python",
        "max_batch_size": MAX_BATCH_ROWS if batched else 0,
        "input": [_port(spec, batched) for spec in signature.inputs],
        "output": [_port(spec, batched) for spec in signature.outputs],
        "instance_group": [_instances(group) for group in groups],
    }
    if batched:
        # No waiting for company: what came while the model was busy is taken together. No limits
        # of the queue either: with one, Triton's batcher (2.51) does not take requests ahead, and a
        # request that comes just before the model waits for work again lies for half a second. A
        # caller's deadline ends its stay in the queue by cancelling the call.
        config["dynamic_batching"] = {}
    return config


def _instances(group: InstanceGroup) -> dict[str, Any]:
    # Without a kind, Triton places instances on GPUs where there are some.
    found: dict[str, Any] = {"count": group.count}
    if group.device in _KINDS:
        found["kind"] = _KINDS[group.device]
    if group.gpus:
        found["gpus"] = list(group.gpus)
    return found


def _port(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    port: dict[str, Any] = {
        "name": spec.name,
        "data_type": DATATYPES[spec.datatype].triton,
        "dims": list(spec.shape[1:] if batched else spec.shape),
    }
    if spec.role is Role.METADATA:
        port["optional"] = True
    return port


def _signature(signature: Signature, groups: Sequence[InstanceGroup]) -> dict[str, Any]:
    return {
        "flavor": signature.flavor,
        "batched": signature.batched,
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
