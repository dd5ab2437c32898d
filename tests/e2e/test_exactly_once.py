"""A request that got its response has its row, once, whatever is killed meanwhile."""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devstack import Stack, start_local
from devstack.runtime import Runtime
from tessera import AsyncClient
from tessera_kit.errors import DeadlineExceeded, TesseraError, Unavailable
from tests.e2e.traffic import Traffic, traffic
from tests.e2e.world import Served, serve_model, settings_of
from tests.helpers import eventually
from tests.model_runtime import runtime_of

_log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(600)

BEHIND_THE_SPOOL = ("inference-shipper", "inference-sink", "kafka", "clickhouse")
"""May be away without a caller's notice."""
BEFORE_CALLERS = ("inference", "objectstore")
"""Triton is killed too where it is a process; else it dies with inference, whose part it is."""
SEED = int(os.environ.get("TESSERA_E2E_SEED", "2013"))
ANSWERS_BETWEEN = 50
RECOVERY_SECONDS = 120.0


async def test_every_answer_is_one_row_after_kills_under_load(
    platform: Stack,
    local_stack: Stack,
    client: AsyncClient,
) -> None:
    chance = random.Random(SEED)  # noqa: S311
    apart = ("triton",) if runtime_of(platform) is Runtime.PROCESS else ()
    before = (*BEFORE_CALLERS, *apart)
    order = [
        *chance.sample(BEHIND_THE_SPOOL, len(BEHIND_THE_SPOOL)),
        *chance.sample(before, len(before)),
    ]
    await kill_in_turn(local_stack, client, order)


async def test_a_service_that_runs_triton_within_itself_may_be_killed(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pytestconfig.getoption("--stack") != "local":
        pytest.skip("the engines are not on this machine")
    monkeypatch.setenv("TESSERA_RUNTIME", "inside")
    async with (
        start_local(tmp_path, services=("catalog", "inference", "inference-sink")) as within,
        AsyncClient(settings_of(within)) as client,
    ):
        assert runtime_of(within) is Runtime.INSIDE
        await kill_in_turn(within, client, ("inference-sink", "inference"))


async def kill_in_turn(stack: Stack, client: AsyncClient, order: Sequence[str]) -> None:
    """Kills one after another while callers ask, and looks for the rows of all answers."""
    served = await serve_model(client)
    async with traffic(client, served.endpoint) as seen:
        await seen.flows(ANSWERS_BETWEEN, RECOVERY_SECONDS)
        for victim in order:
            killed_at = datetime.now(UTC)
            stack.kill(victim)
            await seen.flows(ANSWERS_BETWEEN, RECOVERY_SECONDS)
            await stack.wait_healthy(victim, timeout=RECOVERY_SECONDS)
            await seen.flows(ANSWERS_BETWEEN, RECOVERY_SECONDS)
            await rows_flow(client, served, killed_at)
            if victim in BEHIND_THE_SPOOL:
                assert not seen.failures, f"no request may fail because {victim} was killed"
    story = f"seed {SEED}, killed {', '.join(order)}"
    await check_answers(client, served, seen, story)
    check_failures(seen, story)
    _log.info("%s: %d answers, %d failures", story, len(seen.answers), len(seen.failures))


async def rows_flow(client: AsyncClient, served: Served, since: datetime) -> None:
    """Waits until requests that arrived after `since` have rows that can be counted."""

    async def newer() -> bool:
        try:
            found = await client.inference.table_statistics(served.endpoint, since=since)
        except TesseraError as error:
            raise AssertionError(f"the rows cannot be counted: {error!r}") from None
        assert found.row_count > 0, f"no row of a request since {since}"
        return True

    await eventually(newer, timeout=RECOVERY_SECONDS, interval=0.25)


async def check_answers(client: AsyncClient, served: Served, seen: Traffic, story: str) -> None:
    """0 lost, 0 doubled; each row is of the request that its caller sent."""
    assert not seen.wrong, story
    told = {
        error.metadata["tessera_request_id"]
        for error in seen.failures
        if "tessera_request_id" in error.metadata
    }

    async def counted() -> Counter[str]:
        rows = await client.tables.read(
            served.table, columns=["tessera_request_id", "client_request_id", "status_code"]
        )
        ids = Counter[str](rows["tessera_request_id"].to_pylist())
        lost = (seen.answers.keys() | told) - ids.keys()
        assert not lost, f"{len(lost)} of {len(seen.answers)} lost, as {sorted(lost)[:3]}; {story}"
        callers = {
            request_id: (caller, status)
            for request_id, caller, status in zip(
                *(rows[name].to_pylist() for name in rows.column_names), strict=True
            )
        }
        for answered, name in seen.answers.items():
            assert callers[answered] == (name, 0), story
        for failed in told:
            assert callers[failed][1] != 0, story
        return ids

    ids = await eventually(counted, timeout=RECOVERY_SECONDS, interval=0.5)
    doubled = {request_id for request_id, count in ids.items() if count > 1}
    assert not doubled, f"{len(doubled)} doubled, as {sorted(doubled)[:3]}; {story}"
    statistics = await client.inference.table_statistics(served.endpoint)
    assert statistics.row_count == statistics.distinct_request_count == len(ids), story


def check_failures(seen: Traffic, story: str) -> None:
    """What callers saw meanwhile were clear errors, that say to try again later."""
    unclear = [
        repr(error)
        for error in seen.failures
        if not isinstance(error, Unavailable | DeadlineExceeded) or not error.message
    ]
    assert not unclear, f"{len(unclear)} of {len(seen.failures)}, as {unclear[:3]}; {story}"
