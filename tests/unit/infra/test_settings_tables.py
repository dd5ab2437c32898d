"""The tables of settings in the services' READMEs say what the code reads, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("catalog", "tracking", "training", "inference", "monitoring")
VARIABLE = "TESSERA_[A-Z0-9_]*[A-Z0-9]"
KIT = (ROOT / "libs/tessera_kit/config.py", ROOT / "libs/tessera_kit/rpc/tls.py")


def read_by(path: Path) -> Iterator[str]:
    """Patterns of the variables that a module names, whole or with a service's name put in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [
                re.escape(part.value) if isinstance(part, ast.Constant) else "[A-Z]+"
                for part in node.values
            ]
            if parts[0] == "TESSERA_":
                yield "".join(parts)
        elif isinstance(node, ast.Constant) and re.fullmatch(VARIABLE, str(node.value)):
            yield str(node.value)


def told_by(readme: str) -> set[str]:
    """The variables of the tables' first columns; `TESSERA_TLS_*` stands for all of that prefix."""
    rows = re.findall(r"^\| *(`TESSERA_[^|]*)\|", readme, re.M)
    return {name for row in rows for name in re.findall(r"`(TESSERA_[A-Z0-9_]+\*?)`", row)}


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_of_a_service_is_told(service: str) -> None:
    folder = ROOT / "services" / service
    readme = (folder / "README.md").read_text()
    own = f"TESSERA_{service.upper()}_"
    read = {name for name in read_by(folder / "config.py") if name.startswith(own)}
    assert read
    assert read - told_by(readme) == set()


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_that_is_told_is_read(service: str) -> None:
    folder = ROOT / "services" / service
    known = [name for path in (folder / "config.py", *KIT) for name in read_by(path)]
    stale = {
        name
        for name in told_by((folder / "README.md").read_text())
        if not any(
            one.startswith(name[:-1]) if name.endswith("*") else re.fullmatch(one, name)
            for one in known
        )
    }
    assert stale == set()
