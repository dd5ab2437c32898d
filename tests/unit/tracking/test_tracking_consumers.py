"""Points that come over the bus: checked by field, stored once, refused with what is wrong."""

from __future__ import annotations

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from services.tracking.adapters.memory.store import InMemoryStore
from services.tracking.consumers import METRICS_TOPIC, batch_of
from services.tracking.domain.metrics import Point
from services.tracking.domain.run import Run
from services.tracking.errors import RunNotFound
from services.tracking.handlers.access import Access
from services.tracking.handlers.log import RunLog
from tessera.events.v1 import tracking_events_pb2
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera_kit.bus.envelope import ConsumedRecord, to_record
from tessera_kit.bus.event import new_event
from tessera_kit.clock import SystemClock
from tessera_kit.errors import InvalidArgument
from tessera_kit.rpc.authority import InMemoryAuthority

from .test_tracking_domain import RUN


def consumed(data: Message, **changes: bytes) -> ConsumedRecord:
    record = to_record(new_event(data, source="outsider", key="r"))
    headers = tuple((name, changes.pop(name, value)) for name, value in record.headers)
    value = changes.pop("value", record.value)
    return ConsumedRecord(record.topic, 0, 7, 0, record.key, value, headers)


def observed(**changes: object) -> tracking_events_pb2.MetricsObserved:
    series = pb.MetricSeries(key="loss", steps=[1, 2], times_us=[5, 6], values=[0.5, 0.25])
    whole: dict[str, object] = {"run_id": "r1", "series": [series], **changes}
    return tracking_events_pb2.MetricsObserved(**whole)  # type: ignore[arg-type]


POINTS = [Point("loss", 1, 5, 0.5), Point("loss", 2, 6, 0.25)]


def test_a_record_is_a_batch_of_its_run() -> None:
    one = pb.Metric(key="acc", value=1.0, step=3)
    one.timestamp.FromMicroseconds(9)
    batch = batch_of(consumed(observed(metrics=[one])))
    assert (batch.run_id, batch.principal) == ("r1", "outsider")
    assert sorted(batch.points) == [Point("acc", 3, 9, 1.0), *POINTS]


def test_json_is_taken_too() -> None:
    record = consumed(
        observed(),
        value=json_format.MessageToJson(observed()).encode(),
        **{"content-type": b"application/json"},
    )
    assert record.topic == METRICS_TOPIC
    assert list(batch_of(record).points) == POINTS


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"run_id": ""}, "run_id"),
        ({"series": [pb.MetricSeries(key="", steps=[], times_us=[], values=[])]}, "series[0].key"),
        ({"series": [pb.MetricSeries(key="m", steps=[1], values=[1.0])]}, "series[0]"),
        ({"metrics": [pb.Metric(key="m", value=1.0)]}, "metrics[0].timestamp"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        batch_of(consumed(observed(**changes)))
    assert caught.value.violations[0].field == named


async def test_points_told_again_change_nothing_and_a_missing_run_harms_no_other() -> None:
    store = InMemoryStore()
    await store.transact(lambda work: work.add_runs([Run(RUN)]))
    log = RunLog(store, Access(InMemoryAuthority(), store), SystemClock())
    batches = [batch_of(consumed(observed(run_id=run_id))) for run_id in ("none", "r1", "r1")]
    for _ in range(2):
        with pytest.raises(RunNotFound, match="none"):
            await log.take(batches)
    async with store.read() as view:
        assert await view.metrics.history("r1", "loss", after=None, limit=9) == POINTS
