"""Runs the tracking service: settings, wiring, then serving until a signal."""

from __future__ import annotations

import os

from services.tracking.app import build_app
from services.tracking.config import Config
from tessera_kit.rpc.serving import run, serve
from tessera_kit.telemetry.setup import telemetry


async def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    config = Config.from_env(os.environ)
    async with telemetry(config.telemetry, "tracking"), build_app(config) as app:
        await serve(app.servers, app.background)


if __name__ == "__main__":
    run(main)
