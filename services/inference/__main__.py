"""`python -m services.inference [sink]`: the service, or its sink, until told to end."""

from __future__ import annotations

import os
import sys
from functools import partial

from services.inference.app import build_app, build_sink
from services.inference.config import Config, SinkConfig
from tessera_kit.rpc.serving import run, serve
from tessera_kit.telemetry.setup import telemetry

_SINK_NICENESS = 5


async def main(arguments: list[str]) -> None:
    """Run one of the two processes until SIGTERM."""
    if arguments == ["sink"]:
        # Where both run on one machine that is busy, requests come before their rows.
        os.nice(_SINK_NICENESS)
        sink = SinkConfig.from_env(os.environ)
        async with telemetry(sink.telemetry, "inference-sink"), build_sink(sink) as app:
            await serve(app.servers, app.background)
    elif arguments:
        raise SystemExit("usage: python -m services.inference [sink]")
    else:
        config = Config.from_env(os.environ)
        async with telemetry(config.telemetry, "inference"), build_app(config) as app:
            await serve(app.servers, app.background)


if __name__ == "__main__":
    run(partial(main, sys.argv[1:]))
