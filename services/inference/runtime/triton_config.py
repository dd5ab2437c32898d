"""Triton's ModelConfig of a served model: from its signature, and what its endpoint sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from services.inference.domain.datatypes import DATATYPES
from services.inference.domain.endpoint import Device, InstanceGroup
from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions
from services.inference.domain.signature import Role, Signature, TensorSpec
from services.inference.runtime.warm_up import WarmUp

__all__ = ["triton_config"]

_KINDS: Final = {Device.CPU: "KIND_CPU", Device.GPU: "KIND_GPU"}


def triton_config(
    name: str,
    signature: Signature,
    groups: Sequence[InstanceGroup],
    options: RuntimeOptions,
    warm_up: WarmUp | None = None,
) -> dict[str, Any]:
    """The configuration, as JSON of `inference.ModelConfig`.

    Args:
        name: The model's name in the runtime.
        signature: What it takes and gives.
        groups: Its instances.
        options: What the endpoint sets.
        warm_up: What each instance answers first.
    """
    batched = signature.batched
    config: dict[str, Any] = {
        "name": name,
        "backend": "python",
        "max_batch_size": options.max_rows if batched else 0,
        "input": [_port(spec, batched) for spec in signature.inputs],
        "output": [_port(spec, batched) for spec in signature.outputs],
        "instance_group": [_instances(group) for group in groups],
    }
    if signature.streams:
        config["model_transaction_policy"] = {"decoupled": True}
    if options.response_cache:
        config["response_cache"] = {"enable": True}
    if options.sequences is not None:
        config["sequence_batching"] = _sequences(options, options.sequences)
    elif batched and not signature.streams:
        # Without a delay there is no waiting for company: what came while the model was busy is
        # taken together. No limits of the queue: with one, Triton's batcher (2.51) does not take
        # requests ahead, and a request that comes just before the model waits for work again lies
        # for half a second. A caller's deadline ends its stay in the queue by cancelling the call.
        config["dynamic_batching"] = _gathering(options)
    if warm_up is not None:
        config["model_warmup"] = list(warm_up.samples)
    return config


def _gathering(options: RuntimeOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.preferred_batch_sizes:
        found["preferred_batch_size"] = sorted(options.preferred_batch_sizes)
    if options.max_queue_delay_us:
        found["max_queue_delay_microseconds"] = options.max_queue_delay_us
    return found


def _sequences(options: RuntimeOptions, sequences: SequenceOptions) -> dict[str, Any]:
    # The other strategy, of fixed slots, fills those without a request with made-up ones.
    return {
        "max_sequence_idle_microseconds": sequences.max_idle_us,
        "oldest": {"max_candidate_sequences": sequences.max_sequences, **_gathering(options)},
    }


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
