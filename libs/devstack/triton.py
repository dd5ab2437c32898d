"""The model runtime: Triton with the Python backend and explicit model control.

It runs within the inference service (`inside`), or as the process `tritonserver` (`spec`), which
has doors of its own. Both are the wheel `nvidia-pytriton`'s, 2.51.0, older than the fixes of
several remote-execution flaws: it listens on loopback only, and only validated requests may reach
it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.environment import engine_environment
from devstack.errors import EngineMissing
from devstack.home import Home
from devstack.ports import LOOPBACK
from devstack.probes import http
from devstack.spec import Kind, ProcessSpec

NAME = "triton"
VERSION = "Triton 2.51.0"
PORTS = ("triton-grpc", "triton-http", "triton-metrics")
RESPONSE_CACHE_BYTES = 64 << 20
"""Memory for answers of models whose endpoint wants them kept."""
HEADER_PATTERN = "(x-.*|tessera-.*|traceparent)"
"""gRPC metadata that reaches the model as request parameters."""
_PLAIN = re.compile(r"[A-Za-z0-9_./+@%:,=-]+")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - Triton's Python backend puts its regions there


def distribution() -> tuple[Path, Path]:
    """The folders `pytriton/tritonserver` and `nvidia_pytriton.libs` of the wheel.

    Raises:
        EngineMissing: the wheel is not installed, or has no stub for this Python.
    """
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        raise EngineMissing("Triton is missing: install the extra `embedded` (nvidia-pytriton)")
    package = Path(found.submodule_search_locations[0])
    server = package / "tritonserver"
    if not _stub(server).exists():
        raise EngineMissing(f"nvidia-pytriton has no Python backend stub for {_python()}")
    return server, package.parent / "nvidia_pytriton.libs"


@dataclass(frozen=True)
class Inside:
    """What a service needs to run Triton within its own process."""

    variables: Mapping[str, str]
    directory: Path
    """Its working directory."""
    prepare: Callable[[], None]
    """Runs before each start, with no process of the service alive."""


def inside(home: Home, service: str) -> Inside:
    """Triton within a service of that name, with folders of its own.

    Raises:
        EngineMissing: as `distribution`.
    """
    server, libraries = distribution()
    scratch = _Scratch.of(home, service)
    variables = {
        "TESSERA_TRITON_LIBRARY": str(_library(libraries)),
        "TESSERA_TRITON_BACKENDS": str(scratch.backends),
        "TESSERA_TRITON_CACHES": str(server / "caches"),
        "LD_LIBRARY_PATH": _search_path(libraries),
        # Triton forks to start a model's process: gRPC is not to stop for that.
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }
    return Inside(variables, scratch.empty, lambda: scratch.make(server))


def spec(home: Home, ports: Mapping[str, int]) -> ProcessSpec:
    """The process: an empty model repository, models come through the repository API."""
    server, libraries = distribution()
    scratch = _Scratch.of(home, NAME)
    region = shared_memory_prefix(home, NAME)

    def prepare() -> None:
        scratch.make(server)
        sweep(region)

    return ProcessSpec(
        name=NAME,
        kind=Kind.ENGINE,
        command=(str(server / "bin" / "tritonserver"), *_flags(server, scratch, ports, region)),
        environment={
            **engine_environment(home),
            "LD_LIBRARY_PATH": _search_path(libraries),
        },
        directory=scratch.empty,
        probe=http(LOOPBACK, ports["triton-http"], "/v2/health/ready"),
        doors={
            "triton_grpc": f"{LOOPBACK}:{ports['triton-grpc']}",
            "triton_http": f"http://{LOOPBACK}:{ports['triton-http']}",
            "triton_metrics": f"http://{LOOPBACK}:{ports['triton-metrics']}/metrics",
        },
        prepare=prepare,
    )


@dataclass(frozen=True)
class _Scratch:
    """The folder of a process that Triton runs in, by a path that a shell takes for one word."""

    real: Path
    plain: Path

    @classmethod
    def of(cls, home: Home, process: str) -> _Scratch:
        real = home.scratch(process)
        return cls(real, plain_path(real, f"{shared_memory_prefix(home, process)}scratch"))

    @property
    def backends(self) -> Path:
        """Its path is part of the line of shell."""
        return self.plain / "backends"

    @property
    def empty(self) -> Path:
        """A working directory: the stub puts it first on sys.path, so nothing may lie there."""
        return self.plain / "empty"

    @property
    def models(self) -> Path:
        """A model repository without models."""
        return self.plain / "models"

    def make(self, server: Path) -> None:
        """Makes all of it anew."""
        _make_backends(server, self.real / "backends")
        if self.plain != self.real:
            self.plain.unlink(missing_ok=True)
            self.plain.symlink_to(self.real)
        for folder in (self.empty, self.models):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)


def plain_path(path: Path, link: str) -> Path:
    """The path itself, or one that will be a link to it, of which a shell makes one plain word.

    Triton starts the processes of its Python backend by a line of shell without quotes. In it are
    the stub and the backend's folder, the model's folder (in `/tmp`, as it comes with its files),
    the prefix of the shared memory and the model's name.

    Args:
        path: The path.
        link: The name that the link has in the temporary folder.
    """
    return path if _PLAIN.fullmatch(str(path)) else Path(tempfile.gettempdir()) / link


def shared_memory_prefix(home: Home, process: str = NAME) -> str:
    """The prefix of shared memory of one process of this data directory.

    A sweep touches no other stack's, and no other process's of this one.
    """
    digest = hashlib.sha256(str(home.root).encode()).hexdigest()[:12]
    return f"tessera_{process}_{digest}_"


def sweep(prefix: str) -> None:
    """Removes the shared memory regions that a killed server left."""
    for region in regions(prefix):
        region.unlink(missing_ok=True)


def regions(prefix: str) -> list[Path]:
    """The shared memory regions of that prefix."""
    return list(_SHARED_MEMORY.glob(f"{prefix}*"))


def _library(libraries: Path) -> Path:
    """The file of libtritonserver, whose name ends with a digest."""
    try:
        return next(libraries.glob("libtritonserver-*.so"))
    except StopIteration:
        raise EngineMissing(f"nvidia-pytriton has no libtritonserver in {libraries}") from None


def _search_path(libraries: Path) -> str:
    """Where the libraries of Triton are, and libpython, which the processes of models need."""
    return os.pathsep.join((str(libraries), str(sysconfig.get_config_var("LIBDIR"))))


def _flags(server: Path, scratch: _Scratch, ports: Mapping[str, int], region: str) -> list[str]:
    flags = {
        "model-repository": scratch.models,
        "model-control-mode": "explicit",
        "backend-directory": scratch.backends,
        "cache-directory": server / "caches",
        # For the models that ask for it alone.
        "cache-config": f"local,size={RESPONSE_CACHE_BYTES}",
        "http-address": LOOPBACK,
        "http-port": ports["triton-http"],
        "grpc-address": LOOPBACK,
        "grpc-port": ports["triton-grpc"],
        "metrics-address": LOOPBACK,
        "metrics-port": ports["triton-metrics"],
        "grpc-header-forward-pattern": HEADER_PATTERN,
        "backend-config": f"python,shm-region-prefix-name={region}",
        # A model that fails or loads slowly must not make the server look dead.
        "strict-readiness": "false",
        "exit-on-error": "false",
        "exit-timeout-secs": 5,
        "log-format": "ISO8601",
    }
    return [f"--{name}={value}" for name, value in flags.items()]


def _make_backends(server: Path, backends: Path) -> None:
    """Puts one stub beside the backend; the wheel keeps those of all Python versions apart."""
    target = backends / "python"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for source in (server / "backends" / "python").iterdir():
        if source.is_file():
            (target / source.name).symlink_to(source)
    shutil.copy2(_stub(server), target / "triton_python_backend_stub")
    (target / "triton_python_backend_stub").chmod(0o755)


def _stub(server: Path) -> Path:
    return server / "python_backend_stubs" / _python() / "triton_python_backend_stub"


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
