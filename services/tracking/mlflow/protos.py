"""MLflow's messages, from the files that `mlflow-skinny` ships.

`import mlflow.protos` would run `mlflow/__init__.py`, which takes 2 seconds and 150 MB. The
generated modules refer to each other by relative imports only, so they load as well as a package of
another name: in 40 milliseconds and 8 MB.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

__all__ = ["PREFIXES", "Rpc", "all_rpcs", "protos"]

PREFIXES: Final = ("/api", "/ajax-api")
"""What MLflow's paths begin with: for clients, and for its web pages."""

_PACKAGE: Final = "tessera_mlflow_protos"
_MODULES: Final = ("service_pb2", "model_registry_pb2", "mlflow_artifacts_pb2", "webhooks_pb2")
# Values of these may hold slashes.
_LONG: Final = frozenset({"artifact_path", "tag_key", "key"})


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method of MLflow's services."""

    name: str
    """`MlflowService/createRun`."""
    endpoints: tuple[tuple[str, str], ...]
    """HTTP methods with paths, as the route table takes them: `/api/2.0/mlflow/runs/create`."""
    request: type[Message]
    """Message of the request."""
    response: type[Message]
    """Message of the response."""


@cache
def protos(module: str) -> Any:
    """Return one of MLflow's generated modules, as `service_pb2`.

    Raises:
        ModuleNotFoundError: `mlflow-skinny` is not installed.
    """
    if _PACKAGE not in sys.modules:
        # The parent is found, and not run.
        found = importlib.util.find_spec("mlflow")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError("mlflow-skinny is not installed")
        package = ModuleType(_PACKAGE)
        package.__path__ = [str(Path(found.submodule_search_locations[0]) / "protos")]
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{module}")


@cache
def all_rpcs() -> Sequence[Rpc]:
    """Return every method of MLflow's services, in the order of its files."""
    return [rpc for module in _MODULES for rpc in _rpcs(protos(module).DESCRIPTOR)]


def _rpcs(file: Any) -> Iterator[Rpc]:
    option = protos("databricks_pb2").rpc
    for service in file.services_by_name.values():
        for method in service.methods:
            endpoints = method.GetOptions().Extensions[option].endpoints
            yield Rpc(
                name=f"{service.name}/{method.name}",
                endpoints=tuple(
                    (one.method, f"{prefix}/{one.since.major}.0{_path(one.path)}")
                    for one in endpoints
                    for prefix in PREFIXES
                ),
                request=GetMessageClass(method.input_type),
                response=GetMessageClass(method.output_type),
            )


def _path(path: str) -> str:
    """Return a path in the route table's notation; MLflow's files mix two others."""
    names = re.sub(r"<path:(\w+)>|\{(?:\w+\.)?(\w+)\}", _parameter, path)
    return names if names.startswith("/") else f"/{names}"


def _parameter(match: re.Match[str]) -> str:
    name = match[1] or match[2]
    return f"{{{name}:path}}" if name in _LONG else f"{{{name}}}"
