"""Calls of the tracking service's door that its tests share."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2 as api
from tessera_kit.bus.envelope import from_record
from tessera_kit.bus.tables import OUTBOX
from tessera_kit.store.sql import outbox_record

from .conftest import Service


async def refused(call: Any, code: grpc.StatusCode, *words: str) -> error_details_pb2.ErrorInfo:
    """Await a call that must fail; return its error info."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    for word in words:
        assert word in (caught.value.details() or "")
    status = rpc_status.from_call(caught.value)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info


async def new_experiment(service: Service, name: str = "flights", **fields: Any) -> pb.Experiment:
    request = api.CreateExperimentRequest(experiment=pb.Experiment(name=name, **fields))
    return (await service.ada.CreateExperiment(request)).experiment


async def new_run(service: Service, experiment_id: str = "0", **fields: Any) -> pb.Run:
    request = api.CreateRunRequest(experiment_id=experiment_id, **fields)
    return (await service.ada.CreateRun(request)).run


async def run_of(service: Service, run_id: str) -> pb.Run:
    return (await service.ada.GetRun(api.GetRunRequest(run_id=run_id))).run


def metric(key: str, value: float, step: int = 0, seconds: int = 1) -> pb.Metric:
    return pb.Metric(key=key, value=value, step=step, timestamp=Timestamp(seconds=seconds))


async def told(service: Service) -> list[Any]:
    """The events that wait in the outbox, in order."""
    columns = (OUTBOX.c.topic, OUTBOX.c.record_key, OUTBOX.c.value, OUTBOX.c.headers)
    async with service.database.sessions() as session:
        rows = await session.execute(sa.select(*columns).order_by(OUTBOX.c.position))
    return [from_record(outbox_record(tuple(row))).data for row in rows]
