"""What inference's unit tests share: a small signature, endpoints of it, requests, and its door."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from services.inference.adapters.wire.door import WireDoor
from services.inference.domain.endpoint import (
    Endpoint,
    EndpointConfig,
    InferenceTable,
    ServedEntity,
)
from services.inference.domain.signature import Signature, parse_manifest
from tests.unit.inference.door_peer import LIMITS, EchoService, Peer, open_door, turns

MANIFEST: dict[str, Any] = {
    "flavor": "torch_export",
    "file": "model.pt2",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 4], "role": "FEATURE"},
        {
            "name": "carrier",
            "datatype": "BYTES",
            "shape": [-1, 1],
            "role": "FEATURE",
            "vocabulary": ["AA", "UA", "DL"],
        },
        {"name": "flown_at", "datatype": "BYTES", "shape": [-1, 1], "role": "METADATA"},
    ],
    "outputs": [{"name": "probability", "datatype": "FP32", "shape": [-1, 1]}],
}
NOW = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)


@pytest.fixture
def manifest() -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(MANIFEST))
    return copy


@pytest.fixture
def signature() -> Signature:
    return parse_manifest(json.dumps(MANIFEST).encode())


@pytest.fixture
def make_endpoint(signature: Signature) -> Callable[..., Endpoint]:
    def make(name: str = "flights", shares: tuple[int, ...] = (100,), version: int = 1) -> Endpoint:
        entities = tuple(
            ServedEntity(
                name=f"delay-{index + 1}",
                model_name="main.flights.delay",
                model_version=index + 1,
                model_alias="",
                traffic_percent=share,
                instance_count=1,
                runtime_name=f"tessera-{name}-{version}-{index}",
                signature=signature,
            )
            for index, share in enumerate(shares)
        )
        return Endpoint(
            endpoint_id=f"id-{name}",
            name=name,
            comment="",
            table_prefix=name,
            table=InferenceTable(f"main.flights.{name}_payload", "main_flights", f"{name}_payload"),
            created_by="alice",
            created_at=NOW,
            updated_at=NOW,
            etag="etag-1",
            config=EndpointConfig(version, entities, NOW),
            last_config_version=version,
        )

    return make


@pytest.fixture
def make_request() -> Callable[..., Any]:
    """A valid `inference.ModelInferRequest` of some rows; change it to make it wrong."""

    def make(rows: int = 1, *, name: str = "flights", request_id: str = "") -> Any:
        request = service_pb2.ModelInferRequest(model_name=name, id=request_id)
        x = request.inputs.add(name="x", datatype="FP32", shape=[rows, 4])
        assert x is not None
        request.raw_input_contents.append(np.arange(rows * 4, dtype=np.float32).tobytes())
        request.inputs.add(name="carrier", datatype="BYTES", shape=[rows, 1])
        request.raw_input_contents.append(b"\x02\x00\x00\x00UA" * rows)
        return request

    return make


@pytest.fixture
async def service() -> EchoService:
    return EchoService()


@pytest.fixture
async def door(service: EchoService) -> Any:
    door = open_door(service, limits=LIMITS, drain_seconds=0.1)
    yield door
    await door.stop()


@pytest.fixture
async def peer(door: WireDoor) -> Any:
    peer = Peer(door)
    yield peer
    peer.leave()
    await turns()
