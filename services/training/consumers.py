"""Which events training listens to: those that fire triggers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from services.training.domain.trigger import TriggerEvent
from services.training.handlers.triggers import note_event
from services.training.ports import Firings
from tessera.catalog.v1 import model_pb2
from tessera.events.v1 import catalog_events_pb2, monitoring_events_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera_kit.bus.event import Event
from tessera_kit.bus.handling import Handler

__all__ = ["GROUP", "handlers"]

GROUP = "training-triggers"


def handlers(firings: Callable[[Any], Firings]) -> Mapping[type[Message], Handler]:
    """What to do with each event, given what makes the port of a consumer's unit of work."""

    async def on_alert(event: Event, uow: Any) -> None:
        data = event.data
        assert isinstance(data, monitoring_events_pb2.AlertChanged)  # noqa: S101 - routed by type
        if data.alert.state == monitor_pb2.ALERT_STATE_FIRING:
            await note(event, uow, TriggerEvent.ALERT_FIRED, data.alert.monitor)

    async def on_model_version(event: Event, uow: Any) -> None:
        data = event.data
        assert isinstance(data, catalog_events_pb2.ModelVersionStatusChanged)  # noqa: S101
        version = data.model_version
        if version.status == model_pb2.MODEL_VERSION_STATUS_READY:
            await note(event, uow, TriggerEvent.MODEL_VERSION_READY, version.model_name)

    async def note(event: Event, uow: Any, kind: TriggerEvent, subject: str) -> None:
        await note_event(firings(uow), kind, subject, event.id, event.time)

    return {
        monitoring_events_pb2.AlertChanged: on_alert,
        catalog_events_pb2.ModelVersionStatusChanged: on_model_version,
    }
