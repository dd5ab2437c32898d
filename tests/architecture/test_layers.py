"""The folders state the dependency rule; these tests walk the imports and hold it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("catalog", "tracking", "training", "inference", "monitoring")
SAME_NAMES = (
    "README.md",
    "__init__.py",
    "__main__.py",
    "app.py",
    "config.py",
    "domain",
    "errors.py",
    "handlers/cases",
    "ports",
    "servicers",
    "convert/events",
    "consumers",
    "adapters",
    "migrations",
)
"""What each service folder holds; a name without a suffix is a module or a package."""
MOST_LINES = 600
MOST_LINES_OF_A_FUNCTION = 55
"""What fits on a screen; docstrings do not count, nor do migrations."""


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
                yield path


@cache
def imports(path: Path) -> frozenset[str]:
    """Full names of all modules that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def violations(paths: Iterator[Path], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(imports(path))
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in forbidden)
    ]


def test_libs_never_import_services() -> None:
    assert violations(modules("libs"), ("services",)) == []


@pytest.mark.parametrize("service", SERVICES)
def test_services_never_import_each_other(service: str) -> None:
    others = tuple(f"services.{other}" for other in SERVICES if other != service)
    assert violations(modules(f"services/{service}"), others) == []


def test_services_do_not_import_the_public_client_or_the_dev_stack() -> None:
    forbidden = ("tessera.client", "tessera.cli", "tessera.quickstart", "devstack")
    assert violations(modules("services"), forbidden) == []


def test_kit_stands_on_contracts_only() -> None:
    forbidden = ("devstack", "tessera.client", "tessera.cli", "tessera.quickstart", "tessera.jobs")
    assert violations(modules("libs/tessera_kit"), forbidden) == []


@pytest.mark.parametrize("service", SERVICES)
def test_domain_knows_no_protocol_and_no_engine(service: str) -> None:
    forbidden = (
        "grpc",
        "sqlalchemy",
        "aiokafka",
        "faust",
        "clickhouse_connect",
        "tessera_kit.rpc",
        "tessera_kit.bus",
        "tessera_kit.store",
        f"services.{service}.adapters",
        f"services.{service}.servicers",
    )
    domain = ROOT / "services" / service / "domain"
    assert domain.is_dir()
    assert violations(modules(f"services/{service}/domain"), forbidden) == []


@pytest.mark.parametrize("service", SERVICES)
def test_handlers_name_no_concrete_adapter(service: str) -> None:
    forbidden = (f"services.{service}.adapters", f"services.{service}.servicers", "sqlalchemy")
    assert violations(modules(f"services/{service}/handlers"), forbidden) == []


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", SAME_NAMES)
def test_who_knows_one_service_knows_all(service: str, name: str) -> None:
    folder = ROOT / "services" / service
    assert (folder / name).exists() or (folder / f"{name}.py").exists()


def test_modules_are_small() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in modules("services", "libs", "tests", "infra")
        if (lines := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert long == {}


def test_functions_fit_on_a_screen() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": lines
        for path in modules("services", "libs", "infra")
        if "migrations" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := _lines_of_code(node)) > MOST_LINES_OF_A_FUNCTION
    }
    assert long == {}


def _lines_of_code(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is None:
        return lines
    told = node.body[0]
    return lines - (told.end_lineno or told.lineno) + told.lineno - 1


def test_no_modules_import_each_other() -> None:
    """Neither directly nor in a circle, nor for the sake of types."""
    paths = {
        _dotted(path): path for path in modules("services", "libs") if path.name != "__init__.py"
    }
    order = TopologicalSorter(
        {
            name: {found for found in imports(path) if found in paths and found != name}
            for name, path in paths.items()
        }
    )
    order.prepare()


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "libs" else parts)


def test_importing_a_module_does_nothing() -> None:
    """No calls at the top of a module that reach outside of the process."""
    outside = {"getenv", "connect", "basicConfig", "open", "run", "Popen", "urlopen", "getLogger"}
    allowed = {"getLogger"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules("services", "libs")
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.Assign | ast.Expr | ast.AnnAssign)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
        and _called(node) in outside - allowed
        and not _is_environment_constant(node)
    ]
    assert found == []


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_environment_constant(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Constant)
