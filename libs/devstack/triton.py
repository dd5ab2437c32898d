"""The model runtime: `tritonserver` with the Python backend and explicit model control.

It is the wheel `nvidia-pytriton`'s server, 2.51.0, older than the fixes of several
remote-execution flaws: it listens on loopback only, and only validated requests may reach it.
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
from collections.abc import Mapping
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


def spec(home: Home, ports: Mapping[str, int]) -> ProcessSpec:
    """The process: an empty model repository, models come through the repository API."""
    server, libraries = distribution()
    real = home.scratch(NAME)
    scratch = plain_path(real, home)
    region = shared_memory_prefix(home)

    def prepare() -> None:
        if scratch != real:
            scratch.unlink(missing_ok=True)
            scratch.symlink_to(real)
        _make_backends(server, real / "backends")
        for name in ("empty", "models"):
            shutil.rmtree(scratch / name, ignore_errors=True)
            (scratch / name).mkdir(parents=True)
        sweep(region)

    search = [str(libraries), str(sysconfig.get_config_var("LIBDIR"))]
    return ProcessSpec(
        name=NAME,
        kind=Kind.ENGINE,
        command=(str(server / "bin" / "tritonserver"), *_flags(server, scratch, ports, region)),
        environment={
            **engine_environment(home),
            "LD_LIBRARY_PATH": os.pathsep.join(search),
        },
        # The Python stub puts its working directory first on sys.path: nothing may lie there.
        directory=scratch / "empty",
        probe=http(LOOPBACK, ports["triton-http"], "/v2/health/ready"),
        doors={
            "triton_grpc": f"{LOOPBACK}:{ports['triton-grpc']}",
            "triton_http": f"http://{LOOPBACK}:{ports['triton-http']}",
            "triton_metrics": f"http://{LOOPBACK}:{ports['triton-metrics']}/metrics",
        },
        prepare=prepare,
    )


def plain_path(path: Path, home: Home) -> Path:
    """The path itself, or one that will be a link to it, of which a shell makes one plain word.

    Triton starts the processes of its Python backend by a line of shell without quotes.
    """
    if _PLAIN.fullmatch(str(path)):
        return path
    return Path(tempfile.gettempdir()) / f"{shared_memory_prefix(home)}{NAME}"


def shared_memory_prefix(home: Home) -> str:
    """The prefix of this data directory's shared memory: a sweep touches no other stack's."""
    return f"tessera_{hashlib.sha256(str(home.root).encode()).hexdigest()[:12]}_"


def sweep(prefix: str) -> None:
    """Removes the shared memory regions that a killed server left."""
    for region in regions(prefix):
        region.unlink(missing_ok=True)


def regions(prefix: str) -> list[Path]:
    """The shared memory regions of that prefix."""
    return list(_SHARED_MEMORY.glob(f"{prefix}*"))


def _flags(server: Path, scratch: Path, ports: Mapping[str, int], region: str) -> list[str]:
    flags = {
        "model-repository": scratch / "models",
        "model-control-mode": "explicit",
        "backend-directory": scratch / "backends",
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
