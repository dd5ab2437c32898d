"""Runs the catalog service: `python -m services.catalog`."""

from __future__ import annotations

import os

from services.catalog.app import build_app
from services.catalog.config import Config
from tessera_kit.rpc.serving import run, serve
from tessera_kit.telemetry.setup import telemetry


async def main() -> None:
    """Read the settings, build the service, and serve until told to stop."""
    config = Config.from_env(os.environ)
    async with telemetry(config.telemetry, "catalog"), build_app(config) as app:
        await serve(app.servers, app.background)


if __name__ == "__main__":
    run(main)
