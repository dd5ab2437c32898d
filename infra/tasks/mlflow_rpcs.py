"""Writes the table of MLflow's rpcs into tracking's README: `mlflow_rpcs.py generate | check`.

The rows come from the descriptors that `mlflow-skinny` ships, the states from the routes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.tasks.kept import keep
from services.tracking.adapters.memory.store import InMemoryStore
from services.tracking.adapters.memory.traces import InMemorySpans
from services.tracking.adapters.objects import ObjectArtifacts
from services.tracking.handlers.cases import Outside, Places, build_use_cases
from services.tracking.mlflow.not_offered import why_not_offered
from services.tracking.mlflow.protos import PREFIXES, Rpc, all_rpcs
from services.tracking.mlflow.routes import mlflow_methods
from services.tracking.ports.webhooks import Hooks
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.store.memory_objects import InMemoryObjectStore

README = Path(__file__).resolve().parents[2] / "services/tracking/README.md"
BEGIN, END = "<!-- mlflow rpcs: begin -->\n", "<!-- mlflow rpcs: end -->\n"


def main(arguments: list[str]) -> int:
    """Writes the table, or checks that it is current; returns the exit status."""
    made = {README: with_table(README.read_text())}
    return keep(arguments, made, "infra/tasks/mlflow_rpcs.py")


def with_table(text: str) -> str:
    """Returns the README with the table as it should be."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def table() -> str:
    """Returns one line per rpc."""
    offered = _offered()
    rpcs = all_rpcs()
    count = sum(rpc.name in offered for rpc in rpcs)
    lines = [
        f"Of {len(rpcs)} rpcs, {count} are answered; the others answer `NOT_IMPLEMENTED`.\n",
        "\n| rpc | HTTP | answered |\n| --- | --- | --- |\n",
    ]
    lines += [
        f"| {rpc.name} | {', '.join(_places(rpc))} | {_state(rpc.name, offered)} |\n"
        for rpc in rpcs
    ]
    return "".join(lines)


def _state(name: str, offered: set[str]) -> str:
    if name in offered:
        return "yes"
    why = why_not_offered(name)
    return f"no: {why}" if why else "no"


def _offered() -> set[str]:
    """Returns the names of the rpcs that have a handler; none of them is called."""
    never_called: Any = object()
    cases = build_use_cases(
        Outside(
            InMemoryStore(),
            ObjectArtifacts(InMemoryObjectStore()),
            InMemorySpans(),
            InMemoryAuthority(),
            registry=never_called,
            hooks=Hooks(never_called, never_called, never_called),
        ),
        Places(""),
    )
    return set(mlflow_methods(cases))


def _places(rpc: Rpc) -> Iterator[str]:
    for method, path in rpc.endpoints:
        if path.startswith(f"{PREFIXES[0]}/"):
            yield f"`{method} {path.removeprefix(PREFIXES[0])}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
