"""The year: windows are replayed, the alert retrains, the new version is tried and judged."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

from tessera.client.aio.client import AsyncClient
from tessera.client.aio.training import JobFailed
from tessera.monitoring.v1 import monitor_pb2
from tessera.quickstart.flights import between
from tessera.quickstart.plan import CANARY_PERCENT, CANARY_WINDOWS, Plan, windows
from tessera.quickstart.prepare import served
from tessera.quickstart.progress import Progress
from tessera.quickstart.replay import Answer, replay, tell_outcomes
from tessera.quickstart.waiting import wait_until
from tessera.training.v1 import job_pb2

_WORSE_BY = 0.01
"""A canary is rolled back when its area under the ROC curve is lower by more than this."""


@dataclass(slots=True)
class Turn:
    """Something that happened in the year: an alert, a retraining, a canary, its verdict."""

    at: datetime
    kind: str
    text: str


@dataclass(slots=True)
class Year:
    """What came of replaying April to December."""

    sent: int = 0
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    labels: int = 0
    turns: list[Turn] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class Lifecycle:
    """Replays the year and acts on what the platform tells."""

    def __init__(
        self, client: AsyncClient, plan: Plan, flights: pa.Table, chosen: pa.Table, show: Progress
    ) -> None:
        self._client = client
        self._plan = plan
        self._flights = flights
        self._chosen = chosen
        self._show = show
        self._champion = 1
        self._challenger: int | None = None
        self._canary_from: datetime | None = None
        self._canary_windows = 0
        self._alerts: asyncio.Queue[monitor_pb2.Alert] = asyncio.Queue(maxsize=1000)
        self.year = Year()

    async def run(self) -> Year:
        """Replays all windows in order; returns what came of it."""
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(self._watch_alerts())
            previous: datetime | None = None
            for start, end in windows():
                await self._window(start, end)
                if previous is not None:
                    await self._wait_closed(previous)
                await self._act(end)
                previous = start
            watcher.cancel()
        return self.year

    async def _watch_alerts(self) -> None:
        async for alert in self._client.monitoring.watch_alerts(self._plan.monitor):
            await self._alerts.put(alert)

    async def _window(self, start: datetime, end: datetime) -> None:
        """Sends the window's flights, then tells their outcomes and lands the flown flights."""
        flights = between(self._chosen, start, end)
        result = await replay(self._client, self._plan.endpoint, flights, self._show.advance)
        self.year.sent += result.sent
        self.year.answers += result.answers
        self.year.failures += result.failures
        self.year.labels += await tell_outcomes(self._client, self._plan.endpoint, result.answers)
        flown = between(self._flights, start, end)
        await self._client.tables.append(
            self._plan.departures, flown, request_id=f"{self._plan.schema}-{start.date()}"
        )
        self._show.window(start, len(self.year.answers))

    async def _wait_closed(self, start: datetime) -> None:
        """Waits until the monitor has computed the window that `start` falls into."""

        async def closed() -> bool:
            return any(
                window.start.ToDatetime(start.tzinfo) <= start < window.end.ToDatetime(start.tzinfo)
                and window.state == monitor_pb2.WINDOW_STATE_CLOSED
                for window in await self._client.monitoring.windows(self._plan.monitor)
            )

        await wait_until(closed, f"the window of {start.date()} to close")

    async def _act(self, now: datetime) -> None:
        while not self._alerts.empty():
            alert = self._alerts.get_nowait()
            self._tell(now, "alert", alert.message)
            firing = alert.state == monitor_pb2.ALERT_STATE_FIRING
            if firing and self._champion == 1 and self._challenger is None:
                await self._retrain(now)
        if self._challenger is not None:
            self._canary_windows += 1
            if self._canary_windows > CANARY_WINDOWS:
                await self._judge(now)

    async def _retrain(self, now: datetime) -> None:
        """Waits for the job that the alert's trigger submitted, and gives its version a share."""

        async def submitted() -> job_pb2.Job | None:
            trigger_name = self._plan.trigger
            jobs = await self._client.training.list_jobs(trigger_name=trigger_name, limit=1)
            return jobs[0] if jobs else None

        job = await wait_until(submitted, "the alert's trigger to submit its job")
        self._tell(now, "retraining", f"the trigger submitted job {job.job_id}")
        try:
            job = await self._show.follow(self._client, job.job_id, "retrain")
        except JobFailed as error:
            self._tell(now, "retraining failed", error.message)
            return
        self._challenger = job.output_model_version
        await self._client.inference.update_config(
            self._plan.endpoint,
            [
                served(self._plan, self._champion, 100 - CANARY_PERCENT),
                served(self._plan, self._challenger, CANARY_PERCENT),
            ],
        )
        await self._client.inference.wait_ready(self._plan.endpoint)
        self._canary_from, self._canary_windows = now, 0
        self._tell(
            now, "canary", f"version {self._challenger} answers {CANARY_PERCENT} % of the requests"
        )

    async def _judge(self, now: datetime) -> None:
        """Promotes the canary, or rolls it back, by the quality that the monitor measured."""
        if self._challenger is None or self._canary_from is None:
            return
        await self._wait_labelled()
        aucs = await self._quality_since(self._canary_from)
        old, new = aucs.get(self._champion, math.nan), aucs.get(self._challenger, math.nan)
        figures = f"AUC {new:.3f} against {old:.3f} of version {self._champion}"
        if new >= old - _WORSE_BY:
            await self._set_traffic({self._challenger: 100, self._champion: 0})
            await self._client.models.set_alias(self._plan.model, "champion", self._challenger)
            self._tell(now, "promoted", f"version {self._challenger} takes all: {figures}")
            self._champion = self._challenger
        else:
            await self._set_traffic({self._champion: 100, self._challenger: 0})
            self._tell(now, "rolled back", f"version {self._challenger} goes: {figures}")
        self._challenger = None

    async def _set_traffic(self, shares: dict[int, int]) -> None:
        await self._client.inference.update_traffic(
            self._plan.endpoint, {f"v{version}": percent for version, percent in shares.items()}
        )

    async def _wait_labelled(self) -> None:
        """Waits until every outcome told so far is joined, in the windows that are closed."""

        async def joined() -> bool:
            found = await self._client.monitoring.windows(self._plan.monitor)
            closed = [w for w in found if w.state == monitor_pb2.WINDOW_STATE_CLOSED]
            return all(window.label_count >= window.row_count for window in closed)

        await wait_until(joined, "the outcomes to be joined")

    async def _quality_since(self, start: datetime) -> dict[int, float]:
        """The mean area under the ROC curve by version, over the windows since `start`."""
        values = await self._client.monitoring.metrics(
            self._plan.monitor, metrics=["roc_auc"], slice_key="model_version"
        )
        by_version: dict[int, list[float]] = {}
        for value in values:
            if value.window_end.ToDatetime(start.tzinfo) > start and math.isfinite(value.value):
                by_version.setdefault(int(value.slice_value), []).append(value.value)
        return {version: sum(found) / len(found) for version, found in by_version.items()}

    def _tell(self, at: datetime, kind: str, text: str) -> None:
        self.year.turns.append(Turn(at, kind, text))
        self._show.note(kind, text)
