"""What the processes of a stack show to Prometheus, and a Prometheus that reads it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.prometheus.embedded import configuration
from tests.helpers import eventually


def labels_on(page: str) -> dict[str, set[str]]:
    """Names of the series on a page, as Prometheus reads them, with all labels they have there."""
    found: dict[str, set[str]] = {}
    for line in page.splitlines():
        if not line.startswith("#") and (series := re.match(r"(\w+)(?:\{(.*)\})? \S+", line)):
            found.setdefault(series[1], set()).update(re.findall(r'(\w+)="', series[2] or ""))
    return found


async def get(url: str) -> str:
    """The body of a page."""

    def read() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own doors
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus server."""

    url: str

    async def query(self, expression: str) -> list[Any]:
        """What an expression gives now; raises AssertionError where it is none."""
        arguments = urllib.parse.urlencode({"query": expression})
        try:
            answer = json.loads(await get(f"{self.url}/api/v1/query?{arguments}"))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        return list(answer["data"]["result"])


@contextlib.asynccontextmanager
async def run_prometheus(
    program: str, home: Path, targets: Mapping[str, str]
) -> AsyncIterator[Prometheus]:
    """Reads every target each second; ready when each was read twice."""
    file = home / "prometheus.yml"
    file.write_text(json.dumps(configuration(targets, "1s")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (home / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={file}",
            f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address={address}",
            stderr=log,
        )
    server = Prometheus(f"http://{address}")

    async def read_twice() -> bool:
        try:
            found = await server.query("count_over_time(up[1m]) >= 2 and up == 1")
        except OSError:
            return False
        return len(found) == len(targets)

    try:
        await eventually(read_twice, timeout=60, interval=0.25)
        yield server
    finally:
        process.terminate()
        await process.wait()
