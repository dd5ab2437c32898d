"""Settings: what must be there, and bounds that fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.inference.config import Config, ShipperConfig, SinkConfig
from tessera_kit.config import ConfigError


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    token = tmp_path / "inference.token"
    token.write_text("tsr_1_secret")
    return {
        "TESSERA_INFERENCE_LISTEN": "127.0.0.1:0",
        "TESSERA_GATEWAY_LISTEN": "127.0.0.1:0",
        "TESSERA_INFERENCE_DATABASE_URL": "sqlite+aiosqlite:////tmp/inference.db",
        "TESSERA_KAFKA_BOOTSTRAP": "127.0.0.1:9092",
        "TESSERA_CLICKHOUSE_URL": "http://127.0.0.1:8123",
        "TESSERA_TRITON_GRPC_TARGET": "127.0.0.1:8001",
        "TESSERA_CATALOG_TARGET": "127.0.0.1:50051",
        "TESSERA_S3_ENDPOINT": "http://127.0.0.1:8333",
        "TESSERA_S3_ACCESS_KEY": "key",
        "TESSERA_S3_SECRET_KEY": "secret",
        "TESSERA_SERVICE_TOKEN_FILE": str(token),
        "TESSERA_DATA_DIR": str(tmp_path / "data"),
        "TESSERA_INFERENCE_SINK_METRICS_LISTEN": "127.0.0.1:9100",
    }


def test_defaults(environment: dict[str, str], tmp_path: Path) -> None:
    config = Config.from_env(environment)
    assert config.spool.directory == tmp_path / "data" / "spool"
    assert config.gateway.max_in_flight == 512
    assert "tsr_1_secret" not in repr(config)
    shipper = ShipperConfig.from_env(environment)
    assert shipper.spool == config.spool
    assert shipper.largest_logged_body == 1 << 20
    sink = SinkConfig.from_env(environment)
    assert sink.max_wait_seconds == 0.2
    assert sink.telemetry.metrics_listen == "127.0.0.1:9100"


@pytest.mark.parametrize(
    "name",
    [
        "TESSERA_INFERENCE_DATABASE_URL",
        "TESSERA_KAFKA_BOOTSTRAP",
        "TESSERA_CLICKHOUSE_URL",
        "TESSERA_TRITON_GRPC_TARGET",
        "TESSERA_CATALOG_TARGET",
        "TESSERA_SERVICE_TOKEN_FILE",
        "TESSERA_DATA_DIR",
    ],
)
def test_what_is_missing_is_named(environment: dict[str, str], name: str) -> None:
    del environment[name]
    with pytest.raises(ConfigError, match=name):
        Config.from_env(environment)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TESSERA_INFERENCE_MAX_IN_FLIGHT", "0"),
        ("TESSERA_INFERENCE_SPOOL_SEGMENT_MIB", "0"),
        ("TESSERA_INFERENCE_SPOOL_MAX_MIB", "1"),
    ],
)
def test_bounds_that_do_not_fit_are_refused(
    environment: dict[str, str], name: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=name):
        Config.from_env({**environment, name: value})


@pytest.mark.parametrize("value", ["8000000", "-1"])
def test_the_shippers_bounds_are_checked(environment: dict[str, str], value: str) -> None:
    name = "TESSERA_INFERENCE_LOGGED_BODY_BYTES"
    with pytest.raises(ConfigError, match=name):
        ShipperConfig.from_env({**environment, name: value})


def test_the_sinks_bounds_are_checked(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="TESSERA_INFERENCE_SINK_MAX_ROWS"):
        SinkConfig.from_env({**environment, "TESSERA_INFERENCE_SINK_MAX_ROWS": "0"})
