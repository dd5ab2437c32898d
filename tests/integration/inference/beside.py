"""A further gateway beside a stack's own: its own doors and spool, and the shipper of that."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import Mapping
from typing import Any

import grpc
import tritonclient.grpc.aio as triton

from devstack import Stack
from devstack.ports import PortClaims, allocate
from devstack.probes import NotReady
from devstack.services import SERVICES, spec
from devstack.spec import ProcessSpec
from tessera.inference.v1 import inference_service_pb2_grpc
from tessera_kit.config import Secret
from tessera_kit.rpc.client import open_channel
from tests.helpers import eventually

_SERVICE, _SHIPPER = SERVICES["inference"], SERVICES["inference-shipper"]
_NAME = "inference-beside"


class Beside:
    """The gateway and its shipper; one at a time per stack.

    Args:
        stack: On this machine, with a Triton that both gateways can ask.
        token: The administrator's.
    """

    def __init__(self, stack: Stack, token: str) -> None:
        self._home = stack.home
        self._claims = PortClaims()
        names = {f"{_NAME}-{port}": port for port in (*_SERVICE.ports, *_SHIPPER.ports)}
        numbers = allocate(self._home, names, {}, self._claims)
        self._ports = {names[name]: number for name, number in numbers.items()}
        doors = stack.state().doors
        self._spec = spec(self._home, _SERVICE, self._ports, doors, ())
        self._shipping = spec(self._home, _SHIPPER, self._ports, doors, ())
        self._process: Process | None = None
        self._shipper: Process | None = None
        self.inference = open_channel(self._target("inference"), token=Secret(token))
        self.gateway = triton.InferenceServerClient(self._target("gateway"))

    @property
    def endpoints(self) -> Any:
        """`InferenceService` of this process."""
        return inference_service_pb2_grpc.InferenceServiceStub(self.inference)

    async def start(self, **settings: str) -> None:
        """Start it with further variables, and return when it is healthy."""
        self._home.data(_NAME).mkdir(parents=True, exist_ok=True)
        self._process = await self._start(self._spec, settings)
        if self._shipper is None:
            self._shipper = await self._start(self._shipping, {})
        await eventually(self._is_healthy, timeout=120)
        await asyncio.wait_for(self.inference.channel_ready(), 60)

    async def _start(self, process: ProcessSpec, settings: Mapping[str, str]) -> Process:
        own = {"TESSERA_DATA_DIR": str(self._home.data(_NAME)), **settings}
        with self._home.log_file(_NAME).open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *process.command,
                cwd=process.directory,
                env={**process.environment, **own},
                stdout=log,
                stderr=log,
            )

    async def kill(self) -> None:
        """End the gateway as a crash would; its shipper lives on."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def close(self) -> None:
        """End it in order, and close every connection to it."""
        await asyncio.gather(self.inference.close(), self.gateway.close())
        for process in (self._process, self._shipper):
            if process is not None:
                process.terminate()
                await asyncio.wait_for(process.wait(), 60)
        self._claims.close()

    async def _is_healthy(self) -> bool:
        try:
            await self._spec.probe()
        except (NotReady, OSError, TimeoutError, grpc.aio.AioRpcError):
            return False
        return True

    def _target(self, door: str) -> str:
        return f"127.0.0.1:{self._ports[door]}"
