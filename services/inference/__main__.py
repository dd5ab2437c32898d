"""`python -m services.inference [shipper|sink]`: the service, or one that makes its rows."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from functools import partial

from services.inference.app import build_app, build_shipper, build_sink
from services.inference.config import Config, ShipperConfig, SinkConfig
from tessera_kit.memory import keep_memory
from tessera_kit.rpc.serving import run, serve
from tessera_kit.telemetry.setup import telemetry

_SETTINGS, _MARK = "TESSERA_", "TESSERA_STACK_HOME"
"""Of variables that configure this process, and of the one that tells whose processes are left."""
_KEPT_BYTES = 64 << 20
"""Of memory that large requests took, for those that follow them."""


async def main(arguments: list[str]) -> None:
    """Run one of the three processes until SIGTERM."""
    if arguments == ["shipper"]:
        shipper = ShipperConfig.from_env(os.environ)
        async with telemetry(shipper.telemetry, "inference-shipper"), build_shipper(shipper) as app:
            await serve(app.servers, app.background)
    elif arguments == ["sink"]:
        sink = SinkConfig.from_env(os.environ)
        async with telemetry(sink.telemetry, "inference-sink"), build_sink(sink) as app:
            await serve(app.servers, app.background)
    elif arguments:
        raise SystemExit("usage: python -m services.inference [shipper|sink]")
    else:
        config = Config.from_env(os.environ)
        keep_memory(_KEPT_BYTES)
        _hide_settings(os.environ)
        async with telemetry(config.telemetry, "inference"), build_app(config) as app:
            await serve(app.servers, app.background)


def _hide_settings(environment: MutableMapping[str, str]) -> None:
    """Processes of models, which this one may start, do not inherit what it was told in secret."""
    for name in list(environment):
        if name.startswith(_SETTINGS) and name != _MARK:
            del environment[name]


if __name__ == "__main__":
    run(partial(main, sys.argv[1:]))
