"""What Triton is given to serve a model version: a configuration, a program and checked files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from services.inference.domain.datatypes import DATATYPES
from services.inference.domain.endpoint import Device, InstanceGroup
from services.inference.domain.signature import Flavor, Role, Signature, TensorSpec
from services.inference.runtime.archive import rebuild

__all__ = ["MAX_BATCH_ROWS", "ModelBundle", "make_bundle"]

MAX_BATCH_ROWS: Final = 8192
"""Most rows of one request, and of the batch that Triton puts together from several."""
_KINDS: Final = {Device.CPU: "KIND_CPU", Device.GPU: "KIND_GPU"}
_MODEL_FILES: Final = {Flavor.TORCH_EXPORT: "model.pt2", Flavor.TORCHSCRIPT: "model.pt"}


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
    model: bytes,
    groups: Sequence[InstanceGroup] = (),
) -> ModelBundle:
    """The bundle of a model version.

    Args:
        name: The model's name in the runtime.
        signature: From the version's manifest.
        instance_count: How many processes run it at once.
        model: The model's file as it was uploaded.
        groups: Instances by device; when empty, the runtime places `instance_count` of them.

    Raises:
        InvalidArchive: The file is not safe to load.
    """
    file = _MODEL_FILES[signature.flavor]
    groups = groups or [InstanceGroup(Device.AUTO, instance_count)]
    program = resources.files("services.inference.runtime").joinpath("triton_model.py")
    return ModelBundle(
        config=json.dumps(_config(name, signature, groups)),
        files={
            "1/model.py": program.read_bytes(),
            "1/signature.json": json.dumps(_signature(signature, file, groups)).encode(),
            f"1/{file}": rebuild(signature.flavor, model),
        },
    )


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


def _signature(signature: Signature, file: str, groups: Sequence[InstanceGroup]) -> dict[str, Any]:
    return {
        "flavor": signature.flavor,
        "file": file,
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
