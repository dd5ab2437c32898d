"""`python -m services.training`: read settings, build the service, run until told to end."""

from __future__ import annotations

import os

from services.training.app import build_app
from services.training.config import Config
from tessera_kit.rpc.serving import run, serve
from tessera_kit.telemetry.setup import telemetry


async def main() -> None:
    """Run the service until SIGTERM."""
    config = Config.from_env(os.environ)
    async with telemetry(config.telemetry, "training"), build_app(config) as app:
        await serve(app.servers, app.background)


if __name__ == "__main__":
    run(main)
