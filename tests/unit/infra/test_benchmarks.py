"""What the benchmarks make of windows, and the client that asks by HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from tritonclient.grpc import service_pb2 as oip

from tests.benchmarks import doors, echo, matrix
from tests.benchmarks.http_caller import HttpCaller
from tests.benchmarks.load import Target, Window, load_process
from tests.benchmarks.results import Figure, Report
from tests.benchmarks.screen import show

SIDES = ("direct", "gateway", "envoy")


def window(in_flight: int, p50: float, rate: float, p99: float = 9.0) -> Window:
    return Window(in_flight, int(2 * rate), 0, 2.0, p50, p99)


def test_turns_ask_everybody_equally_and_let_each_go_first() -> None:
    turns = [turn for number in (1, 2, 3) for turn in matrix.turns(SIDES, number)]
    asked = Counter(turns)
    assert asked == {(n, side): 3 for n in matrix.IN_FLIGHT for side in SIDES}
    first = [side for in_flight, side in turns if in_flight == 8][::3]
    assert sorted(first) == sorted(SIDES)


@pytest.fixture
def figures() -> dict[str, Figure]:
    """Of three rounds at one in flight, of 1 MB, in which one of the gateway's is an outlier."""
    windows = {
        ("direct", 1): [window(1, p50, 100.0) for p50 in (1.0, 1.1, 1.2)],
        ("gateway", 1): [window(1, p50, rate) for p50, rate in ((1.6, 60), (99, 1), (1.5, 80))],
        ("envoy", 1): [window(1, 1.3, 90.0) for _ in range(3)],
    }
    payload = matrix.PAYLOADS["1MB"]
    return {one.name: one for one in matrix.figures_of(payload, windows, "some client")}


def test_figures_are_medians_beside_direct_and_envoy(figures: dict[str, Figure]) -> None:
    p50 = figures["1 MB, 1 in flight: p50"]
    assert (p50.value, p50.peer, p50.calibration) == (1.6, 1.1, 1.3)
    assert p50.as_json()["ratio"] == pytest.approx(1.6 / 1.1)
    assert p50.as_json()["calibration_ratio"] == pytest.approx(1.3 / 1.1)
    assert p50.note == "by some client"
    assert not p50.higher_is_better
    rate = figures["1 MB, 1 in flight: requests"]
    assert (rate.value, rate.ratio, rate.calibration_ratio) == (60, 0.6, 0.9)


def test_what_is_added_has_no_ratio(figures: dict[str, Figure]) -> None:
    added = figures["1 MB, 1 in flight: p50 added"]
    assert added.value == pytest.approx(0.5)
    assert added.calibration == pytest.approx(0.2)
    assert added.ratio is None
    assert added.calibration_ratio is None


def test_bodies_are_counted_in_megabytes_of_one_way(figures: dict[str, Figure]) -> None:
    bodies = figures["1 MB, 1 in flight: bodies, each way"]
    assert bodies.value == pytest.approx(60 * 1.048576)
    assert bodies.ratio == pytest.approx(0.6)


def test_doors_stand_beside_tritons_and_beside_grpc() -> None:
    rates = {
        **{"binary": 60.0, "json": 40.0, "invocations": 20.0, "grpc": 80.0},
        **{"triton binary": 120.0, "triton json": 100.0, "triton grpc": 160.0},
    }
    windows = {
        (side, n): [window(n, 1000 / rate, rate)]
        for side, rate in rates.items()
        for n in (1, 8, 32)
    }
    found = {one.name: one for one in doors.figures_of(windows)}
    binary = found["HTTP, binary, 8 in flight: requests"]
    assert (binary.value, binary.peer, binary.calibration) == (60, 120, 80)
    scoring = found["/invocations, 32 in flight: p50"]
    assert (scoring.value, scoring.peer, scoring.calibration) == (50, 10, 12.5)
    assert found["gRPC, 1 in flight: requests"].calibration is None
    assert len(found) == 24


def test_the_table_shows_the_calibration_with_its_ratio(figures: dict[str, Figure]) -> None:
    where = {"cores": 2, "load_average": [0.1], "memory_gib": 24, "cpu": "a", "versions": {}}
    report = Report({**where, "stack": "local", "runtime": "inside"}, list(figures.values()))
    console = Console(width=200, record=True, file=StringIO())
    show(report, console)
    shown = console.export_text()
    assert "bare Envoy: 1.30 ms, 1.18x" in shown
    assert "stack: local, the gateway's Triton: inside" in shown


def test_a_request_holds_as_many_bytes_as_it_says() -> None:
    request = oip.ModelInferRequest.FromString(echo.request_of("main", 4096))
    (raw,) = request.raw_input_contents
    assert len(raw) == 4096
    assert list(request.inputs[0].shape) == [1, 1024]
    assert np.isfinite(np.frombuffer(raw, np.float32)).all()


ANSWER = b"HTTP/1.1 200 OK\r\nx: y\r\nContent-Length: 5\r\n\r\nhello"


@asynccontextmanager
async def answering(pieces: list[bytes]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers each request of 4 bytes with these pieces, one write each."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.IncompleteReadError:
                writer.close()
                return
            await reader.readexactly(4)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


def cuts() -> Iterator[list[bytes]]:
    yield [ANSWER]
    yield [ANSWER[:7], ANSWER[7:30], ANSWER[30:-2], ANSWER[-2:]]


@pytest.mark.parametrize("pieces", list(cuts()), ids=["whole", "in pieces"])
async def test_http_caller_asks_again_and_again_over_one_connection(pieces: list[bytes]) -> None:
    request = HttpCaller.post("/p", [("a", "b")], b"body")
    async with answering(pieces) as (address, heads):
        caller = HttpCaller(address)
        for _ in range(3):
            assert await caller.ask(request) == (200, b"hello")
        caller.close()
    assert len(heads) == 3
    assert heads[0].startswith(b"POST /p HTTP/1.1\r\nhost: bench\r\ncontent-length: 4\r\na: b\r\n")


async def test_http_caller_fails_when_the_server_goes_away() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        caller = HttpCaller(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(ConnectionError):
            await caller.ask(HttpCaller.post("/", [], b""))


async def test_load_counts_what_other_statuses_are_as_failures() -> None:
    refusal = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno"
    async with answering([refusal]) as (address, heads), load_process() as load:
        target = Target(address, b"body", "secret", path="/p", headers=(("k", "v"),))
        found = await load.run(target, 2, 10.0, max_requests=6)
    assert (found.requests, found.failures, found.in_flight) == (0, 6, 2)
    assert found.first_failure == "429: b'no'"
    assert b"authorization: Bearer secret" in heads[0]
