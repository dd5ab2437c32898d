"""What `telemetry/names.py` declares is what the platform records."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.architecture.test_layers import ROOT, modules

NAMES = ROOT / "libs/tessera_kit/telemetry/names.py"


def declared() -> set[str]:
    tree = ast.parse(NAMES.read_text())
    return {
        node.target.id
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not node.target.id.startswith("_")
    }


def used(path: Path) -> set[str]:
    """Names that a file reads, alone or as an attribute of the module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def test_every_declared_name_is_recorded_somewhere() -> None:
    recorded: set[str] = set()
    for path in modules("libs", "services"):
        if path != NAMES:
            recorded |= used(path)
    # A metric's attributes are used where the metric is.
    metrics = used(NAMES)
    assert declared() - recorded - metrics == set()
