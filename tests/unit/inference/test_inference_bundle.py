"""What Triton is told of a model's instances."""

from __future__ import annotations

import json
from typing import Any

from services.inference.domain.endpoint import Device, InstanceGroup
from services.inference.domain.signature import parse_manifest
from services.inference.runtime.bundle import make_bundle
from tests.unit.inference.archives import torchscript_archive

SOURCES = {"model.pt": torchscript_archive(1)}


def test_instances_are_placed_by_device(manifest: dict[str, Any]) -> None:
    told = {**manifest, "flavor": "torchscript", "file": "model.pt"}
    signature = parse_manifest(json.dumps(told).encode())
    groups = (InstanceGroup(Device.CPU, 2), InstanceGroup(Device.GPU, 1, (0, 1)))
    bundle = make_bundle("m", signature, 1, SOURCES, groups)
    assert json.loads(bundle.config)["instance_group"] == [
        {"count": 2, "kind": "KIND_CPU"},
        {"count": 1, "kind": "KIND_GPU", "gpus": [0, 1]},
    ]
    assert json.loads(bundle.files["1/signature.json"])["instance_count"] == 3
    assert json.loads(bundle.files["1/signature.json"])["needs_gpu"]
    anywhere = make_bundle("m", signature, 4, SOURCES)
    assert json.loads(anywhere.config)["instance_group"] == [{"count": 4}]
    assert not json.loads(anywhere.files["1/signature.json"])["needs_gpu"]


def test_the_batcher_may_take_requests_ahead(manifest: dict[str, Any]) -> None:
    """Any limit of the queue, a time or a size, would make Triton's batcher miss wake-ups."""
    told = {**manifest, "flavor": "torchscript", "file": "model.pt"}
    signature = parse_manifest(json.dumps(told).encode())
    config = json.loads(make_bundle("m", signature, 1, SOURCES).config)
    assert signature.batched
    assert (
        config["dynamic_batching"]
        .keys()
        .isdisjoint({"default_queue_policy", "priority_queue_policy"})
    )
