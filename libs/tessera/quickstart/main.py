"""Runs the main job against a running stack, from data to verdict, and reports on it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from tessera.client.aio.client import AsyncClient
from tessera.client.settings import Settings
from tessera.monitoring.v1 import monitor_pb2
from tessera.quickstart import prepare
from tessera.quickstart.flights import between, load_flights, spread
from tessera.quickstart.lifecycle import Lifecycle, Year
from tessera.quickstart.plan import DEFAULT_REQUESTS, REPLAY_END, REPLAY_START, Plan
from tessera.quickstart.progress import Progress
from tessera.quickstart.results import Results, collect
from tessera.quickstart.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Options:
    """How much to send."""

    requests: int = DEFAULT_REQUESTS
    """Flights of April to December, spread evenly over them."""


async def run(settings: Settings, options: Options, console: Console) -> Results:
    """Runs the main job; returns its results, measured by asking the platform.

    Raises:
        TesseraError: The platform refused or failed a step; what was done so far stays.
    """
    show = Progress(console)
    started = time.perf_counter()
    async with AsyncClient(settings) as client:
        with show.shown():
            plan, flights = await _prepare(client, show)
            await _train(client, plan, show)
            await _deploy(client, plan, show)
            chosen = spread(between(flights, REPLAY_START, REPLAY_END), options.requests)
            with show.replaying(chosen.num_rows):
                year = await Lifecycle(client, plan, flights, chosen, show).run()
            with show.phase("settle", "Settle: last rows, labels, windows"):
                await _settle(client, plan, year)
            with show.phase("collect", "Collect results"):
                # The replay waited while the model was trained again.
                show.seconds["replay"] -= show.seconds.get("retrain", 0.0)
                results = await collect(client, plan, year, show.seconds)
    results.figures["seconds_total"] = round(time.perf_counter() - started, 3)
    return results


async def _prepare(client: AsyncClient, show: Progress) -> tuple[Plan, pa.Table]:
    with show.phase("data", "Load flights and weather") as task:
        flights = load_flights()
        show.detail(task, f"{flights.num_rows:,} flights")
    with show.phase("register", "Register tables in the catalog") as task:
        await prepare.clear_earlier(client)
        plan = await prepare.next_plan(client)
        rows = await prepare.create_tables(client, plan, flights)
        show.detail(task, f"{plan.departures}, {rows:,} rows")
    return plan, flights


async def _train(client: AsyncClient, plan: Plan, show: Progress) -> None:
    job = await client.training.submit(prepare.training_job(plan))
    job = await show.follow(client, job.job_id, "train")
    await client.models.set_alias(plan.model, "champion", job.output_model_version)


async def _deploy(client: AsyncClient, plan: Plan, show: Progress) -> None:
    with show.phase("deploy", "Deploy version 1 on Triton") as task:
        await client.inference.create_endpoint(
            plan.endpoint,
            [prepare.served(plan, 1, 100)],
            table_schema=plan.schema,
            comment="How likely a flight departs 15 minutes late, or more",
        )
        endpoint = await client.inference.wait_ready(plan.endpoint)
        show.detail(task, endpoint.inference_table_full_name)
    with show.phase("monitor", "Create the monitor and its trigger"):
        table = endpoint.inference_table_full_name
        await client.monitoring.create(prepare.monitor_of(plan, table))
        await client.training.create_trigger(prepare.retrain_trigger(plan))


async def _settle(client: AsyncClient, plan: Plan, year: Year) -> None:
    """Waits until every answered request has its row and every outcome is joined."""
    answered = len(year.answers)

    async def rows_are_there() -> bool:
        statistics = await client.inference.table_statistics(plan.endpoint)
        return statistics.distinct_request_count >= answered

    await wait_until(rows_are_there, "all rows to reach the inference table")
    await client.monitoring.close_windows(plan.monitor)

    async def labels_are_joined() -> bool:
        found = await client.monitoring.windows(plan.monitor)
        open_windows = any(window.state != monitor_pb2.WINDOW_STATE_CLOSED for window in found)
        return not open_windows and sum(w.label_count for w in found) >= year.labels

    await wait_until(labels_are_joined, "all outcomes to be joined")


def write_report(results: Results, folder: Path) -> tuple[Path, Path]:
    """Writes `report.json` and the page `report.html`; returns their paths."""
    from tessera.quickstart.report import render  # the plotting library takes a second to import

    folder.mkdir(parents=True, exist_ok=True)
    figures, page = folder / "report.json", folder / "report.html"
    figures.write_bytes(results.as_json())
    page.write_text(render(results))
    return figures, page
