"""Who may not see an endpoint is told of it what is told of one that is not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from tests.unit.inference.gateway import Context, Gateway

Make = Callable[..., Any]


async def test_a_stranger_cannot_tell_an_endpoint_from_none(make_endpoint: Make) -> None:
    gateway = Gateway(make_endpoint())
    gateway.routes.put(replace(make_endpoint(), name="arrivals", config=None))
    told = set()
    for name in ("flights", "arrivals", "nowhere"):
        context = Context("stranger-token")
        await gateway.refused(service_pb2.ModelInferRequest(model_name=name), context)
        told.add((context.code, context.reason, context.details.replace(name, "*")))
    text = (
        "there is no endpoint '*' that stranger may see; querying one needs EXECUTE on endpoint *"
    )
    assert told == {(grpc.StatusCode.NOT_FOUND, "ENDPOINT_NOT_FOUND", text)}
    # The owner finds out who asked.
    assert [(one.endpoint, one.requester, one.status_code) for one in gateway.records] == [
        ("flights", "stranger", 5),
        ("arrivals", "stranger", 5),
    ]
