"""Makes the synchronous client from the asynchronous one: `sync_client.py generate | check`.

Every public coroutine of a class in `tessera.client.aio` becomes a method of the same name,
signature and docstring that runs it on the client's own event loop; every asynchronous iterator
becomes an iterator.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from infra.tasks.kept import keep

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "libs/tessera/client/aio"
TARGET = ROOT / "libs/tessera/client/sync"
MODULES = (
    "access",
    "catalog",
    "events",
    "inference",
    "models",
    "monitoring",
    "tables",
    "tracking",
    "training",
)


def main(arguments: list[str]) -> int:
    """Writes the modules, or checks that they are current; returns the exit status."""
    made = {TARGET / f"{name}.py": _formatted(_module(SOURCE / f"{name}.py")) for name in MODULES}
    return keep(arguments, made, "infra/tasks/sync_client.py")


def _formatted(text: str) -> str:
    """The text as Ruff sorts and formats it."""
    ruff = [str(Path(sys.executable).parent / "ruff")]
    name = ["--stdin-filename", str(TARGET / "module.py"), "-"]
    fix = ["check", "--select", "I,F401", "--fix", "--quiet"]
    return _run([*ruff, "format", *name], _run([*ruff, *fix, *name], text))


def _run(command: list[str], text: str) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return done.stdout


def _module(path: Path) -> str:
    tree = ast.parse(path.read_text())
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.startswith("Async")
    ]
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    shared = [
        node.name for node in tree.body if isinstance(node, ast.ClassDef) and node not in classes
    ]
    wrapped = sorted(
        [*(node.name for node in classes), *(name for name in shared if not name.startswith("_"))]
    )
    head = [
        f'"""{(ast.get_docstring(tree) or "").splitlines()[0]}"""',
        f"# Made from tessera.client.aio.{path.stem} by infra/tasks/sync_client.py.",
        *(ast.unparse(node) for node in imports),
        "from collections.abc import Iterator",
        f"from tessera.client.aio.{path.stem} import {', '.join(wrapped)}",
        "from tessera.client.portal import Portal",
    ]
    return "\n".join([*head, *(_class(node) for node in classes)]) + "\n"


def _class(node: ast.ClassDef) -> str:
    methods = [
        _method(item)
        for item in node.body
        if isinstance(item, ast.AsyncFunctionDef)
        and not item.name.startswith("_")
        and item.name != "close"
    ]
    return "\n".join(
        [
            f"class {node.name.removeprefix('Async')}:",
            f'    """{ast.get_docstring(node)}"""',
            f"    def __init__(self, portal: Portal, wrapped: {node.name}) -> None:",
            "        self._portal = portal",
            "        self._wrapped = wrapped",
            *methods,
        ]
    )


def _method(node: ast.AsyncFunctionDef) -> str:
    returns = ast.unparse(node.returns) if node.returns else "None"
    given = ", ".join(
        [
            *(argument.arg for argument in node.args.args[1:]),
            *(f"{argument.arg}={argument.arg}" for argument in node.args.kwonlyargs),
        ]
    )
    iterates = returns.startswith("AsyncIterator")
    runner = "iterate" if iterates else "run"
    docstring = (ast.get_docstring(node, clean=False) or "").rstrip()
    return "\n".join(
        [
            f"    def {node.name}({ast.unparse(node.args)}) -> {returns.removeprefix('Async')}:",
            f'        """{docstring}"""'
            if "\n" not in docstring
            else f'        """{docstring}\n        """',
            f"        return self._portal.{runner}(self._wrapped.{node.name}({given}))",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
