"""Where models run: within the inference service, or in a process of Triton's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from devstack import Home, StackError, start_local, triton
from devstack.errors import EngineMissing
from devstack.plan import DEFAULT_ENGINES, ENGINES, default_engines, default_names, make_plan
from devstack.ports import PortClaims
from devstack.services import SERVICES, installed
from devstack.services import spec as service_spec
from devstack.spec import ProcessSpec

INSIDE = {"TESSERA_RUNTIME": "inside"}
PROCESS = {"TESSERA_RUNTIME": "process"}
GIVEN = {
    "TESSERA_TRITON_LIBRARY",
    "TESSERA_TRITON_BACKENDS",
    "TESSERA_TRITON_CACHES",
    "LD_LIBRARY_PATH",
}
TARGET = "TESSERA_TRITON_GRPC_TARGET"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


@pytest.fixture
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(triton, "_SHARED_MEMORY", folder)
    return folder


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> tuple[Path, Path]:
        raise EngineMissing("Triton is missing")

    monkeypatch.setattr(triton, "distribution", missing)


@pytest.fixture
def claims(tmp_path: Path) -> Iterator[PortClaims]:
    claims = PortClaims(tmp_path / "claims")
    yield claims
    claims.close()


def inference(
    home: Home, environment: Mapping[str, str], doors: Mapping[str, str] | None = None
) -> ProcessSpec:
    service = SERVICES["inference"]
    ports = dict.fromkeys(service.ports, 1)
    return service_spec(home, service, ports, doors or {}, (), environment)


def test_triton_is_a_process_unless_it_is_wanted_within_inference() -> None:
    assert default_engines(INSIDE) == DEFAULT_ENGINES
    assert set(ENGINES) - set(DEFAULT_ENGINES) == {"triton"}
    assert default_engines({}) == ENGINES
    assert default_engines(PROCESS) == ENGINES
    assert default_names(INSIDE) == (*DEFAULT_ENGINES, *installed())
    assert default_names(PROCESS) == (*ENGINES, *installed())


@pytest.mark.parametrize("text", ["", "Inside", "outside", "1"])
async def test_another_runtime_is_refused(
    home: Home, claims: PortClaims, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    wrong = {"TESSERA_RUNTIME": text}
    told = f"TESSERA_RUNTIME is inside or process, not '{text}'"
    with pytest.raises(StackError, match=told):
        default_names(wrong)
    home.make()
    with pytest.raises(StackError, match=told):
        make_plan(home, ["inference"], wrong, claims)
    monkeypatch.setenv("TESSERA_RUNTIME", text)
    with pytest.raises(StackError, match=told):
        async with start_local(home.root, services=()):
            pass


def test_inference_is_given_triton(home: Home) -> None:
    given = inference(home, INSIDE)
    environment = given.environment
    assert environment.keys() >= GIVEN
    assert re.search(r"/libtritonserver-\w+\.so$", environment["TESSERA_TRITON_LIBRARY"])
    assert Path(environment["TESSERA_TRITON_LIBRARY"]).is_file()
    assert Path(environment["TESSERA_TRITON_CACHES"], "local").is_dir()
    searched = [Path(part) for part in environment["LD_LIBRARY_PATH"].split(os.pathsep)]
    assert all(part.is_dir() for part in searched)
    assert Path(environment["TESSERA_TRITON_LIBRARY"]).parent in searched


def test_no_other_service_is_given_triton(home: Home) -> None:
    for name in SERVICES.keys() - {"inference"}:
        ports = dict.fromkeys(SERVICES[name].ports, 1)
        spec = service_spec(home, SERVICES[name], ports, {}, (), INSIDE)
        assert not GIVEN & spec.environment.keys(), name
        assert spec.directory == home.root


def test_a_start_makes_the_backend_and_an_empty_working_directory(
    home: Home, shared_memory: Path
) -> None:
    spec = inference(home, INSIDE)
    for _ in range(2):
        spec.prepare()
        assert list(spec.directory.iterdir()) == []
        (spec.directory / "left").touch()
    backend = Path(spec.environment["TESSERA_TRITON_BACKENDS"], "python")
    assert os.access(backend / "triton_python_backend_stub", os.X_OK)
    assert (backend / "libtriton_python.so").is_file()
    assert home.root in spec.directory.parents


def test_what_a_shell_reads_is_plain_also_where_the_home_is_not(
    tmp_path: Path, shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setattr("devstack.triton.tempfile.gettempdir", lambda: str(links))
    spec = inference(Home.at(tmp_path / "it's a home"), INSIDE)
    backends = spec.environment["TESSERA_TRITON_BACKENDS"]
    for text in (backends, str(spec.directory)):
        assert re.fullmatch(r"[\w/.-]+", text, re.ASCII)
    spec.prepare()
    assert spec.directory.resolve() == tmp_path / "it's a home/run/inference/empty"
    assert Path(backends, "python/triton_python_backend_stub").is_file()


def test_a_start_of_the_engine_sweeps_its_own_regions_and_no_others(
    home: Home, tmp_path: Path, shared_memory: Path
) -> None:
    ports = dict.fromkeys(triton.PORTS, 1)
    engine, service = triton.spec(home, ports), inference(home, INSIDE)
    prefixes = (
        triton.shared_memory_prefix(home),
        triton.shared_memory_prefix(home, "inference"),
        triton.shared_memory_prefix(Home.at(tmp_path / "other")),
    )
    assert len(set(prefixes)) == len(prefixes)
    for prefix in prefixes:
        (shared_memory / f"{prefix}1").touch()
    # The service sweeps those of its Triton itself, by names that it alone knows.
    service.prepare()
    assert all(triton.regions(prefix) for prefix in prefixes)
    engine.prepare()
    assert [bool(triton.regions(prefix)) for prefix in prefixes] == [False, True, True]


def test_a_process_is_asked_where_it_is_wanted(home: Home, claims: PortClaims) -> None:
    home.make()
    for environment, apart in ((INSIDE, False), (PROCESS, True)):
        plan = make_plan(home, default_names(environment), environment, claims)
        specs = {spec.name: spec for spec in plan.specs}
        assert ("triton" in specs) == apart
        variables = specs["inference"].environment
        assert ("TESSERA_TRITON_LIBRARY" in variables) == (not apart)
        assert variables.get(TARGET) == plan.doors.get("triton_grpc")
        # It waits for the engines that there are.
        engines = {name for name in specs if name in ENGINES}
        assert engines == set(default_engines(environment))
        assert specs["inference"].after == engines


def test_both_may_run_side_by_side(home: Home, claims: PortClaims) -> None:
    home.make()
    plan = make_plan(home, ["triton", "inference"], INSIDE, claims)
    (engine,) = (spec for spec in plan.specs if spec.name == "triton")
    (service,) = (spec for spec in plan.specs if spec.name == "inference")
    assert service.environment["TESSERA_TRITON_LIBRARY"]
    assert service.environment[TARGET] == engine.doors["triton_grpc"]
    assert engine.directory != service.directory
    assert "triton" in service.after


@pytest.mark.usefixtures("without_triton")
def test_without_the_wheel_a_triton_elsewhere_is_asked(home: Home) -> None:
    by_door = inference(home, INSIDE, {"triton_grpc": "h:1"}).environment
    by_caller = inference(home, {**INSIDE, TARGET: "h:2"}).environment
    both = inference(home, {**INSIDE, TARGET: "h:2"}, {"triton_grpc": "h:1"}).environment
    assert [one[TARGET] for one in (by_door, by_caller, both)] == ["h:1", "h:2", "h:1"]
    for environment in (by_door, by_caller, both):
        assert not GIVEN & environment.keys()
    with pytest.raises(EngineMissing, match="Triton is missing"):
        inference(home, INSIDE)
