"""The supervisor's parts that start no process: ports, back-off, logs, secrets, state, names."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack import (
    Home,
    ProcessPhase,
    ProcessState,
    StackError,
    StackState,
    attach,
    gpus,
    lock,
    logs,
    stack,
)
from devstack.backoff import Backoff
from devstack.child import children_by_parent, describe_exit, memory_of
from devstack.errors import AlreadyRunning
from devstack.events import EventLog
from devstack.plan import check_names
from devstack.ports import PortClaims, allocate
from devstack.secrets import Credentials, ensure_credentials, ensure_tokens
from devstack.services import SERVICES
from devstack.services import spec as service_spec
from devstack.settings import client_settings, doors_of, files
from devstack.sigv4 import sign
from devstack.stack import launch
from devstack.state import SupervisorState, read_state, write_state
from devstack.supervisor import Supervisor
from devstack.triton import plain_path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    home.make()
    return home


@pytest.fixture
def claims(tmp_path: Path) -> Iterator[PortClaims]:
    claims = PortClaims(tmp_path / "claims")
    yield claims
    claims.close()


def test_ports_are_free_distinct_and_kept(home: Home, claims: PortClaims) -> None:
    first = allocate(home, ["a", "b", "c"], {}, claims)
    assert len(set(first.values())) == 3
    assert all(20000 <= port < 32000 for port in first.values())
    assert allocate(home, ["a", "b", "c", "d"], {}, claims) == {
        **first,
        "d": json.loads(home.ports_file.read_text())["d"],
    }


def test_two_names_never_get_one_port(
    home: Home, claims: PortClaims, monkeypatch: pytest.MonkeyPatch
) -> None:
    randrange = random.randrange
    drawn: list[int] = []

    def twice(first: int, last: int) -> int:
        """Each number two times, whatever else of this machine listens where."""
        drawn.append(drawn[-1] if len(drawn) % 2 else randrange(first, last))
        return drawn[-1]

    monkeypatch.setattr("devstack.ports.random.randrange", twice)
    first = allocate(home, ["a", "b"], {}, claims)
    assert first["a"] != first["b"]
    drawn[:] = [first["b"]]
    assert allocate(home, ["c"], {}, claims)["c"] not in first.values()
    assert drawn[:2] == [first["b"]] * 2


def test_one_port_for_two_names_is_refused(home: Home, claims: PortClaims) -> None:
    with pytest.raises(StackError, match="TESSERA_PORT_B names port 23456, which another door has"):
        allocate(home, ["a", "b"], {"TESSERA_PORT_A": "23456", "TESSERA_PORT_B": "23456"}, claims)


def test_a_kept_port_that_somebody_took_is_replaced(home: Home, claims: PortClaims) -> None:
    port = allocate(home, ["a"], {}, claims)["a"]
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", port))
        taker.listen()
        assert allocate(home, ["a"], {}, claims)["a"] != port


def test_a_port_is_claimed_before_anybody_listens_there(
    home: Home, claims: PortClaims, tmp_path: Path
) -> None:
    port = allocate(home, ["a"], {}, claims)["a"]
    other = PortClaims(tmp_path / "claims")
    assert not other.claim(port)
    assert allocate(home, ["a"], {}, other)["a"] != port
    claims.close()
    assert other.claim(port)
    other.close()


def test_the_environment_sets_a_port(home: Home, claims: PortClaims) -> None:
    assert allocate(home, ["triton-grpc"], {"TESSERA_PORT_TRITON_GRPC": "21234"}, claims) == {
        "triton-grpc": 21234
    }


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "-1", "8.0"])
def test_a_port_that_is_none_is_refused(home: Home, claims: PortClaims, text: str) -> None:
    with pytest.raises(StackError, match="TESSERA_PORT_A"):
        allocate(home, ["a"], {"TESSERA_PORT_A": text}, claims)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 20))
def test_delays_grow_to_a_limit_and_jitter_never_doubles_them(jitter: float, count: int) -> None:
    backoff = Backoff(first=0.2, longest=30.0, jitter=lambda: jitter)
    delays = [backoff.next_delay(0.0) for _ in range(count)]
    assert delays == sorted(delays)
    for number, delay in enumerate(delays):
        step = min(30.0, 0.2 * 2**number)
        assert step / 2 <= delay <= step


def test_a_long_healthy_life_is_forgiven() -> None:
    backoff = Backoff(first=1.0, forgive_after=10.0, jitter=lambda: 1.0)
    assert [backoff.next_delay(healthy) for healthy in (0, 0, 9, 10, 0)] == [1, 2, 4, 1, 2]


def test_a_long_log_is_cut_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    with path.open("a") as writer:
        for name in ("first", "second", "third"):
            writer.write(f"{name}\n" * 100)
            writer.flush()
            assert logs.rotate(path, max_bytes=200, kept=2)
        writer.write("last\n")
    assert path.read_text() == "last\n"
    assert set((tmp_path / "x.log.1").read_text().split()) == {"third"}
    assert set((tmp_path / "x.log.2").read_text().split()) == {"second"}
    assert not (tmp_path / "x.log.3").exists()
    assert not logs.rotate(path, max_bytes=200)


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    assert logs.tail(path, 3) == []
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    assert logs.tail(path, 2) == ["line 998", "line 999"]
    assert logs.tail(path, 0) == []


def test_secrets_are_made_once_and_closed_to_others(home: Home) -> None:
    ensure_tokens(home)
    token = home.admin_token_file.read_text().strip()
    assert re.fullmatch(r"tsr_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", token)
    credentials = ensure_credentials(home, "objectstore")
    ensure_tokens(home)
    assert home.admin_token_file.read_text().strip() == token
    assert ensure_credentials(home, "objectstore") == credentials
    assert credentials.secret not in repr(credentials)
    made = [home.admin_token_file, *home.tokens.iterdir(), *home.credentials.iterdir()]
    assert len(made) == 7
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    assert home.root.stat().st_mode & 0o777 == 0o700


def test_state_is_read_as_it_was_written(home: Home) -> None:
    process = ProcessState("kafka", "engine", {"kafka": "127.0.0.1:1"}, "/x.log", pid=7)
    process.state = ProcessPhase.HEALTHY
    state = StackState(str(home.root), SupervisorState(1, "2026-11-23T00:00:00Z"), files(home))
    state.processes = [process]
    write_state(home.state_file, state)
    assert read_state(home.state_file) == state
    assert state.process("kafka") is process
    assert json.loads(home.state_file.read_text())["processes"][0]["state"] == "healthy"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}'])
def test_a_state_of_another_version_is_none(home: Home, text: str) -> None:
    home.state_file.write_text(text)
    assert read_state(home.state_file) is None


def test_one_lock_per_directory(home: Home) -> None:
    assert lock.holder(home) is None
    with lock.acquire(home):
        with pytest.raises(AlreadyRunning, match=r"already running in .*; see `tessera status`"):
            lock.acquire(home)
        assert lock.holder(home) is not None
    assert lock.holder(home) is None


def test_events_are_lines_of_json(home: Home) -> None:
    events = EventLog(home.events_file)
    events.tell("started", "kafka", pid=3)
    events.tell("stopped")
    first, second = map(json.loads, home.events_file.read_text().splitlines())
    assert (first["event"], first["process"], first["pid"]) == ("started", "kafka", 3)
    assert second["process"] is None


def test_names_are_checked_and_completed() -> None:
    assert check_names(["kafka"]) == {"kafka", "objectstore"}
    assert check_names(["inference"]) == {"inference", "inference-shipper"}
    assert check_names([]) == set()
    with pytest.raises(StackError, match="unknown process cassandra; there are objectstore, kafka"):
        check_names(["kafka", "cassandra"])


def test_the_variables_of_doors_lead_back_to_them(home: Home) -> None:
    ensure_credentials(home, "objectstore")
    ensure_credentials(home, "clickhouse")
    doors = {"kafka": "h:1", "s3": "http://h:2", "clickhouse": "http://h:3", "catalog": "h:4"}
    variables = client_settings(doors, files(home))
    assert doors_of(variables) == doors
    assert variables["TESSERA_S3_SECRET_KEY"]
    assert attach(variables).urls == doors
    assert not attach(variables).is_local


def test_a_cluster_is_attached_by_a_file_of_variables(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"TESSERA_KAFKA_BOOTSTRAP": "kafka:9092"}))
    assert attach(path).urls == {"kafka": "kafka:9092"}
    with pytest.raises(StackError, match="attached by its URLs"):
        attach(path).kill("kafka")


def test_every_service_has_a_health_door() -> None:
    for service in SERVICES.values():
        assert service.metrics in service.ports


def test_a_shipper_shares_its_gateways_data_and_stops_after_it(home: Home) -> None:
    ports = {port: 1 for service in SERVICES.values() for port in service.ports}
    gateway, shipper, sink = (
        service_spec(home, SERVICES[name], ports, {}, ["kafka"])
        for name in ("inference", "inference-shipper", "inference-sink")
    )
    data = "TESSERA_DATA_DIR"
    assert shipper.environment[data] == gateway.environment[data] != sink.environment[data]
    assert (shipper.outlives, sink.outlives) == ("inference", "")


def test_jobs_may_use_every_gpu_unless_the_caller_says_otherwise(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpus.count({}, tmp_path) == "2"
    assert gpus.count({"TESSERA_TRAINING_GPUS": "1"}, tmp_path) == "1"
    assert gpus.count({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == "0"
    both = {"CUDA_VISIBLE_DEVICES": "1", "TESSERA_TRAINING_GPUS": "1"}
    assert gpus.count(both, tmp_path) == "1"


def test_exits_are_told_in_words() -> None:
    assert describe_exit(3) == "exited with code 3"
    assert describe_exit(-signal.SIGKILL) == "killed by SIGKILL"


def test_memory_is_of_the_tree() -> None:
    import os

    assert os.getpid() in children_by_parent()[os.getppid()]
    memory = memory_of(os.getpid())
    assert 0 < memory.pss <= memory.rss
    assert memory_of(2**30).rss == 0


@pytest.mark.parametrize(
    ("method", "path", "query", "body"),
    [
        ("HEAD", "/tessera", {}, b""),
        ("GET", "/tansu/a%20b/%C3%A9.json", {}, b""),
        ("GET", "/tansu", {"prefix": "a b/é=&+~", "list-type": "2", "empty": ""}, b""),
        ("POST", "/tansu", {"delete": ""}, b"<Delete/>"),
    ],
)
def test_our_signature_is_botocores(
    method: str, path: str, query: dict[str, str], body: bytes
) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials as Keys

    now = datetime(2026, 11, 23, 6, 0, 0, tzinfo=UTC)
    host, keys = "127.0.0.1:8333", Credentials("key", "secret")
    ours = sign(method, host, path, "us-east-1", keys, now, query=query, body=body)
    request = AWSRequest(method, f"http://{host}{path}", params=query, data=body)
    request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
    request.headers["x-amz-date"] = request.context["timestamp"]
    request.headers["x-amz-content-sha256"] = ours["x-amz-content-sha256"]
    assert ours["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()
    auth = S3SigV4Auth(Keys("key", "secret"), "s3", "us-east-1")
    canonical = auth.canonical_request(request)
    theirs = auth.signature(auth.string_to_sign(request, canonical), request)
    assert ours["authorization"].endswith(f"Signature={theirs}")


async def test_a_data_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=r"/file/home cannot be used: Not a directory"):
        await launch(tmp_path / "file" / "home", ["kafka"], detached=False)


async def test_a_stack_is_not_started_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(total=2**40, used=2**40, free=3 * 2**20)
    monkeypatch.setattr(stack, "disk_usage", lambda path: full)
    with pytest.raises(StackError, match="has 3 MiB free, and a stack needs 256 MiB"):
        await launch(tmp_path / "home", ["kafka"], detached=False)


def test_what_cannot_be_written_is_told_in_the_log_and_ends_nothing(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(home, {})
    shutil.rmtree(home.root)
    EventLog(home.events_file).tell("started", "kafka", pid=1)
    supervisor._write_now()
    assert re.findall(r"(\S+) cannot be written", caplog.text) == [
        str(home.events_file),
        str(home.state_file),
    ]


def test_triton_gets_a_path_that_a_shell_takes_for_one_word(tmp_path: Path) -> None:
    plain = tmp_path / "a-b_c.d"
    assert plain_path(plain, "link") == plain
    for name in ("my models", "it's", "$HOME", "a;b", "ü"):
        replaced = plain_path(tmp_path / name, "link")
        assert re.fullmatch(r"[\w/.-]+", str(replaced), re.ASCII)
        assert replaced == Path(tempfile.gettempdir()) / "link"
