"""The entry of the `tessera` command: finds the module of the verb, runs it, says what went wrong.

To add verbs, write a module with `register(app: typer.Typer) -> None` and list it in `MODULES`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence

import typer

from tessera.cli.output import command_name, describe_error, print_error

MODULES: Mapping[str, tuple[str, ...]] = {
    "tessera.cli.quickstart": ("quickstart",),
    "tessera.cli.stack": ("up", "down", "status", "logs"),
    "tessera.cli.catalog": (
        *("catalogs", "schemas", "tables", "models", "versions", "search", "rows", "lineage"),
        *("grants", "grant", "revoke"),
    ),
    "tessera.cli.principals": ("principals", "token"),
    "tessera.cli.runs": (
        *("experiments", "runs", "run", "run-tail", "run-metric", "run-export"),
        *("jobs", "job-logs", "cancel"),
    ),
    "tessera.cli.tracking": ("tracking",),
    "tessera.cli.traces": ("traces",),
    "tessera.cli.deploying": ("deploy", "undeploy"),
    "tessera.cli.answers": ("predict", "explain", "payload"),
    "tessera.cli.serving": ("endpoints", "monitors", "windows", "alerts"),
}
"""Each module of verbs and the verbs it registers, in the order of `tessera --help`."""

_DEBUG = "TESSERA_DEBUG"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command line; exits 0, 1 for a failure, 2 for a command line that is wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    app = build_app(_verb(words))
    try:
        # A shell completes the installed command, whatever it was reached by.
        completes = any("completion" in word for word in words[:1])
        app(words, prog_name="tessera" if completes else command_name())
    except Exception as error:
        if os.environ.get(_DEBUG):
            raise
        print_error(describe_error(error) or _unexpected(error))
        sys.exit(1)


def build_app(verb: str | None = None) -> typer.Typer:
    """The application with the module of `verb`, or with all of them where none has it."""
    app = typer.Typer(
        name="tessera",
        help="Tessera: an event-driven AI and ML platform on this machine or a cluster.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    # Without a callback, an application of one verb would take that verb's place.
    app.callback()(_application)
    chosen = [name for name, verbs in MODULES.items() if verb in verbs] or list(MODULES)
    for name in chosen:
        importlib.import_module(name).register(app)
    return app


def _application() -> None:
    """Tessera: an event-driven AI and ML platform on this machine or a cluster."""


def _verb(words: Sequence[str]) -> str | None:
    """The verb of a command line; none while a shell asks for completions of them all."""
    if any(name.endswith("_COMPLETE") for name in os.environ):
        return None
    return words[0] if words and not words[0].startswith("-") else None


def _unexpected(error: Exception) -> str:
    return f"{type(error).__name__}: {error} (set {_DEBUG}=1 for the details)"


if __name__ == "__main__":
    main()
