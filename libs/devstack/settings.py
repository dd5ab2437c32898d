"""The `TESSERA_*` variables that describe a running stack to services, clients and tests.

The same names configure the cluster profile; only the values differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from devstack import kafka, objectstore
from devstack.files import read_json
from devstack.home import Home

GRPC_DOORS = ("catalog", "tracking", "training", "inference", "gateway", "monitoring")
CLICKHOUSE_DATABASE = "tessera"
_ENGINE_VARIABLES = {
    "kafka": "TESSERA_KAFKA_BOOTSTRAP",
    "s3": "TESSERA_S3_ENDPOINT",
    "clickhouse": "TESSERA_CLICKHOUSE_URL",
    "triton_grpc": "TESSERA_TRITON_GRPC_TARGET",
    "triton_http": "TESSERA_TRITON_HTTP_URL",
    "triton_metrics": "TESSERA_TRITON_METRICS_URL",
}


def files(home: Home) -> dict[str, str]:
    """Where the secrets of a stack lie; `stack.json` names them and holds none."""
    return {
        "admin_token": str(home.admin_token_file),
        "service_tokens": str(home.tokens),
        "s3_credentials": str(home.credentials / "objectstore.json"),
        "clickhouse_credentials": str(home.credentials / "clickhouse.json"),
    }


def client_settings(doors: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
    """The variables that reach what is behind `doors`; doors that are absent are left out."""
    settings = {
        f"TESSERA_{name.upper()}_TARGET": doors[name] for name in GRPC_DOORS if name in doors
    }
    settings |= {
        variable: doors[door] for door, variable in _ENGINE_VARIABLES.items() if door in doors
    }
    if "kafka" in doors:
        settings["TESSERA_KAFKA_SESSION_SECONDS"] = str(kafka.SESSION_SECONDS)
        settings["TESSERA_KAFKA_FETCH_WAIT_SECONDS"] = str(kafka.FETCH_WAIT_SECONDS)
    if "s3" in doors:
        settings |= {
            "TESSERA_S3_REGION": objectstore.REGION,
            "TESSERA_S3_BUCKET": objectstore.BUCKET,
        }
        settings |= _credentials(files["s3_credentials"], "S3_ACCESS_KEY", "S3_SECRET_KEY")
    if "clickhouse" in doors:
        settings["TESSERA_CLICKHOUSE_DATABASE"] = CLICKHOUSE_DATABASE
        settings |= _credentials(
            files["clickhouse_credentials"], "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD"
        )
    return {**settings, "TESSERA_ADMIN_TOKEN_FILE": files["admin_token"]}


def doors_of(variables: Mapping[str, str]) -> dict[str, str]:
    """The doors that the variables of a cluster name."""
    targets = {name: f"TESSERA_{name.upper()}_TARGET" for name in GRPC_DOORS}
    return {
        door: variables[variable]
        for door, variable in {**_ENGINE_VARIABLES, **targets}.items()
        if variable in variables
    }


def _credentials(path: str, user: str, secret: str) -> dict[str, str]:
    stored = read_json(Path(path)) or {}
    pairs = {f"TESSERA_{user}": stored.get("user"), f"TESSERA_{secret}": stored.get("secret")}
    return {name: value for name, value in pairs.items() if value is not None}
