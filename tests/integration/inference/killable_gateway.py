"""A gateway in a process of its own, to be killed: its door, streams and spool before a runtime.

`python -m tests.integration.inference.killable_gateway SPOOL TRITON MODEL` prints its address.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from services.inference.adapters.triton_wire import TritonWire
from services.inference.adapters.wire.door import WireDoor
from services.inference.capture.spool import Spool
from services.inference.gateway.descriptions import Descriptions
from services.inference.gateway.protocol import SERVICE_NAME, InferenceProtocol
from tessera_kit.config import RpcConfig
from tessera_kit.rpc.server import RawBinding
from tessera_kit.telemetry.metrics import Metrics
from tests.integration.inference.streaming import endpoint
from tests.unit.inference.test_inference_gateway import Gateway


async def main(directory: str, target: str, model: str) -> None:
    """Serve until killed."""
    spool = Spool(Path(directory), segment_bytes=1 << 20, max_bytes=1 << 24)
    spool.open()
    runtime = TritonWire(target, max_message_bytes=64 << 20)
    gateway = Gateway(endpoint(model), runtime=runtime, capture=spool)
    descriptions = Descriptions(gateway.routes, gateway.authority, "1")
    protocol = InferenceProtocol(descriptions, gateway.handler, gateway.streams)
    door = WireDoor(
        RpcConfig("127.0.0.1:0"), [RawBinding(protocol, SERVICE_NAME)], metrics=Metrics()
    )
    await door.start()
    sys.stdout.write(f"{door.address}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
