"""Configuration, ids, clocks and names."""

from __future__ import annotations

import asyncio
import os
import pickle
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tessera_kit.clock import ManualClock, SystemClock
from tessera_kit.config import (
    ClickHouseConfig,
    ConfigError,
    DatabaseConfig,
    Env,
    KafkaConfig,
    RpcConfig,
    S3Config,
    TargetsConfig,
    TelemetryConfig,
)
from tessera_kit.errors import InvalidArgument
from tessera_kit.ids import id_time_ms, new_etag, new_id
from tessera_kit.memory import give_back_memory
from tessera_kit.names import check_name, join_name, parse_full_name
from tessera_kit.tasks import in_next_turn


def test_missing_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="TESSERA_X"):
        Env({}).string("TESSERA_X")
    with pytest.raises(ConfigError, match="TESSERA_X"):
        Env({"TESSERA_X": "  "}).integer("TESSERA_X")


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("integer", "1.5"),
        ("number", "nan"),
        ("number", "inf"),
        ("number", "x"),
        ("boolean", "maybe"),
        ("duration", "10 parsecs"),
        ("duration", "-1s"),
        ("duration", "1s\n2"),
    ],
)
def test_wrong_value_names_the_variable_and_not_the_value(method: str, value: str) -> None:
    with pytest.raises(ConfigError, match="TESSERA_X") as caught:
        getattr(Env({"TESSERA_X": value}), method)("TESSERA_X")
    assert value not in str(caught.value).replace("TESSERA_X", "")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("10", 10.0),
        ("10s", 10.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1.5d", 129600.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert Env({"X": text}).duration("X") == seconds


def test_defaults_are_returned_as_they_are() -> None:
    env = Env({"EMPTY": ""})
    assert env.string("EMPTY", None) is None
    assert env.integer("EMPTY", 7) == 7
    assert env.path("EMPTY", None) is None
    assert env.boolean("EMPTY", True) is True


def test_secret_shows_itself_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("tsr_1_swordfish\n")
    secret = Env({"F": str(file)}).secret_file("F")
    assert secret.reveal() == "tsr_1_swordfish"
    for shown in (repr(secret), str(secret), f"{secret}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert "swordfish" not in shown
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_secret_file_errors_name_variable_and_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"F: cannot read .*missing"):
        Env({"F": str(tmp_path / "missing")}).secret_file("F")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        Env({"F": str(tmp_path / "empty")}).secret_file("F")


def test_a_group_waits_for_silent_members_as_long_as_is_said() -> None:
    bus = {"TESSERA_KAFKA_BOOTSTRAP": "kafka:9092"}
    assert KafkaConfig.from_env(bus) == KafkaConfig("kafka:9092", session_seconds=6.0)
    variable = "TESSERA_KAFKA_SESSION_SECONDS"
    assert KafkaConfig.from_env({**bus, variable: "4.5"}).session_seconds == 4.5
    with pytest.raises(ConfigError, match=variable):
        KafkaConfig.from_env({**bus, variable: "0.5"})


def test_a_fetch_waits_as_long_as_is_said() -> None:
    bus = {"TESSERA_KAFKA_BOOTSTRAP": "kafka:9092"}
    variable = "TESSERA_KAFKA_FETCH_WAIT_SECONDS"
    assert KafkaConfig.from_env(bus).fetch_wait_seconds == 0.5
    assert KafkaConfig.from_env({**bus, variable: "0.1"}).fetch_wait_seconds == 0.1
    for bad in ("0", "11"):
        with pytest.raises(ConfigError, match=variable):
            KafkaConfig.from_env({**bus, variable: bad})


def test_configs_hide_their_secrets() -> None:
    env = {
        "TESSERA_S3_ENDPOINT": "http://127.0.0.1:1",
        "TESSERA_S3_ACCESS_KEY": "key",
        "TESSERA_S3_SECRET_KEY": "swordfish",
        "TESSERA_CLICKHOUSE_URL": "http://127.0.0.1:2",
        "TESSERA_CLICKHOUSE_PASSWORD": "swordfish",
        "TESSERA_CATALOG_DATABASE_URL": "postgresql+asyncpg://u:swordfish@h/d",
    }
    s3, clickhouse = S3Config.from_env(env), ClickHouseConfig.from_env(env)
    database = DatabaseConfig.from_env(env, "catalog")
    assert s3.secret_key.reveal() == clickhouse.password.reveal() == "swordfish"
    assert "swordfish" not in repr([s3, clickhouse, database])


def test_rpc_config_refuses_half_of_a_key_pair() -> None:
    with pytest.raises(ConfigError, match="TESSERA_TLS_KEY_FILE"):
        RpcConfig.from_env({"TESSERA_TLS_CERT_FILE": "/x"}, "catalog")
    with pytest.raises(ConfigError, match="TESSERA_TLS_CERT_FILE"):
        RpcConfig.from_env({"TESSERA_TLS_CLIENT_CA_FILE": "/x"}, "catalog")


def test_targets_asks_only_for_what_is_needed() -> None:
    env = {"TESSERA_CATALOG_TARGET": "127.0.0.1:1"}
    assert TargetsConfig.from_env(env, "catalog").catalog == "127.0.0.1:1"
    with pytest.raises(ConfigError, match="TESSERA_TRACKING_TARGET"):
        TargetsConfig.from_env(env, "catalog", "tracking")


def test_telemetry_config_reads_the_process_s_own_door() -> None:
    env = {"TESSERA_INFERENCE_SINK_METRICS_LISTEN": "127.0.0.1:0", "TESSERA_TRACE_RATIO": "0.5"}
    config = TelemetryConfig.from_env(env, "inference-sink")
    assert (config.metrics_listen, config.sample_ratio) == ("127.0.0.1:0", 0.5)
    with pytest.raises(ConfigError, match="TESSERA_TRACE_RATIO"):
        TelemetryConfig.from_env({"TESSERA_TRACE_RATIO": "2"}, "catalog")
    with pytest.raises(ConfigError, match="TESSERA_TRACE_MOST_PER_SECOND"):
        TelemetryConfig.from_env({"TESSERA_TRACE_MOST_PER_SECOND": "-1"}, "catalog")


def test_ids_are_uuid7_unique_and_increasing_across_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda _: [new_id() for _ in range(2000)], range(4)))
    assert all(batch == sorted(batch) for batch in batches)
    ids = [one for batch in batches for one in batch]
    assert len(set(ids)) == len(ids)
    assert all(uuid.UUID(one).version == 7 and str(uuid.UUID(one)) == one for one in ids[:50])
    assert uuid.UUID(ids[0]).variant == uuid.RFC_4122


def test_id_carries_its_time() -> None:
    before = datetime.now(UTC).timestamp() * 1000 - 1
    assert before <= id_time_ms(new_id()) <= datetime.now(UTC).timestamp() * 1000 + 1
    with pytest.raises(ValueError, match="UUIDv7"):
        id_time_ms(str(uuid.uuid4()))


def test_etags_differ() -> None:
    assert len({new_etag() for _ in range(1000)}) == 1000


def test_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(datetime(2013, 4, 1, tzinfo=UTC))
    clock.advance(3600)
    assert clock.now() == datetime(2013, 4, 1, 1, tzinfo=UTC)
    assert clock.monotonic() == 3600
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="aware"):
        ManualClock(datetime(2013, 4, 1))  # noqa: DTZ001


def test_system_clock_is_aware() -> None:
    assert SystemClock().now().tzinfo is UTC


@pytest.mark.parametrize("name", ["a", "_a", "0", "a-b_c", "a" * 128])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "A", "a.b", "a b", "a\n", "ä", "a" * 129, "../a", "a/b", "a\0"]
)
def test_bad_names_are_refused_with_their_field(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_name(name, "model")
    assert [violation.field for violation in caught.value.violations] == ["model"]
    assert caught.value.reason == "INVALID_NAME"


def test_full_names() -> None:
    assert parse_full_name("main.flights.delays", 3) == ("main", "flights", "delays")
    assert join_name("main", "flights") == "main.flights"
    for bad in ("main.flights", "main..delays", "main.flights.", "main.flights.delays.x"):
        with pytest.raises(InvalidArgument):
            parse_full_name(bad, 3)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_the_next_turn_is_after_what_this_one_has_still_to_do(run: Callable[[Any], None]) -> None:
    done: list[str] = []

    async def turn() -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        in_next_turn(done.append, "later")
        loop.call_soon(loop.call_soon, ended.set)
        loop.call_soon(done.append, "soon")
        await ended.wait()

    run(turn())
    assert done == ["soon", "later"]


def test_freed_memory_goes_back_to_the_system() -> None:
    held = [bytes(1000) for _ in range(100_000)]
    end = held.pop()  # keeps the heap from shrinking by itself
    full = _resident_bytes()
    held.clear()
    give_back_memory()
    assert _resident_bytes() < full - 50_000_000
    assert end


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
