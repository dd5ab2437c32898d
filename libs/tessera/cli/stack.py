"""The verbs of the local stack: up, down, status, logs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from devstack import Home, NotRunning, lock, logs
from devstack.home import DEFAULT_HOME
from devstack.stack import (
    START_SECONDS,
    Stack,
    attach,
    describe,
    follow_start,
    launch,
    shut_down,
)
from devstack.state import StackPhase, read_state
from tessera.cli import screen
from tessera.cli.output import (
    JsonOption,
    console,
    error_console,
    print_json,
    print_success,
)
from tessera_kit.units import human_duration

HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="TESSERA_HOME",
        help="The data directory.",
        file_okay=False,
        show_default=DEFAULT_HOME,
    ),
]
_HOME = Path(DEFAULT_HOME)
_LOG_POLL = 0.2


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    for verb in (up, down, status, logs_verb):
        name = verb.__name__.removesuffix("_verb")
        app.command(name, rich_help_panel="The stack on this machine")(verb)


def complete_process(incomplete: str) -> list[str]:
    """The names of the processes in the current data directory, for the shell."""
    state = read_state(Home.at(os.environ.get("TESSERA_HOME", DEFAULT_HOME)).state_file)
    names = [process.name for process in state.processes] if state else []
    return [name for name in (*names, "supervisor") if name.startswith(incomplete)]


def up(
    home: HomeOption = _HOME,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Start only these engines and services (repeatable)."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for health.")] = START_SECONDS,
    as_json: JsonOption = False,
) -> None:
    """Start engines and services, wait until all are healthy, and leave them running.

    A stack that runs already is left as it is.

    Models run in a process of Triton's own; TESSERA_RUNTIME=inside runs Triton within the inference
    service, which answers sooner.

    Ports are chosen free and kept in the data directory; TESSERA_PORT_<NAME> sets one, for
    instance TESSERA_PORT_CATALOG, TESSERA_PORT_KAFKA or TESSERA_PORT_S3.
    """
    asyncio.run(_up(home, only, timeout, as_json))


async def _up(home: Path, only: list[str] | None, timeout: float, as_json: bool) -> None:
    started = time.monotonic()
    stack = await bring_up(home, only, timeout)
    state = stack.state()
    if as_json:
        print_json(describe(state))
    else:
        screen.print_welcome(console(), state, time.monotonic() - started)


async def bring_up(
    home: Path, only: Sequence[str] | None = None, timeout: float = START_SECONDS
) -> Stack:
    """The stack of a data directory, healthy: the one that runs or starts there, or a new one.

    Raises:
        AlreadyRunning: `only` names some processes, and a stack runs.
        StartFailed: a process did not become healthy; what was started here is stopped.
    """
    place = Home.at(home)
    launched = only is not None or lock.holder(place) is None
    stack = await launch(home, only, detached=True) if launched else attach(place.root)
    try:
        with screen.start_screen(error_console()) as on_change:
            await follow_start(stack, timeout, on_change)
    except BaseException:
        # A stack that is half up helps nobody.
        if launched:
            await shut_down(stack.home)
        raise
    return stack


def down(home: HomeOption = _HOME) -> None:
    """Stop the stack in order; its data stays."""
    place = Home.at(home)
    started = time.monotonic()
    with error_console().status("stopping ..."):
        ran = asyncio.run(shut_down(place))
    if ran:
        seconds = human_duration(time.monotonic() - started)
        print_success(f"stopped in {seconds}; the data stays in {home}")
    else:
        print_success(f"no stack runs in {place.root}")


def status(home: HomeOption = _HOME, as_json: JsonOption = False) -> None:
    """Show what runs where, its health and memory.

    Exits 3 where no stack runs, and 1 where a process is not healthy.
    """
    state = read_state(Home.at(home).state_file)
    if state is None:
        raise NotRunning(f"no stack has run in {Home.at(home).root}; start one with `tessera up`")
    described = describe(state)
    if as_json:
        print_json(described)
    else:
        screen.print_status(console(), state)
    if state.state is StackPhase.STOPPED:
        raise typer.Exit(3)
    if not screen.is_healthy(state):
        raise typer.Exit(1)


def logs_verb(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A process, or `supervisor`; without one, the story of them all.",
            autocompletion=complete_process,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines to begin with.")] = 40,
    home: HomeOption = _HOME,
) -> None:
    """Show the log of a process, or what happened to all of them."""
    place = Home.at(home)
    path = place.log_file(name or "supervisor")
    if not path.exists():
        known = ", ".join(sorted(log.stem for log in place.logs.glob("*.log")))
        raise NotRunning(
            f"{place.root} has no log of {name!r}; there are {known}"
            if known
            else f"no stack has run in {place.root}"
        )
    for line in logs.tail(path, lines):
        typer.echo(line)
    if follow:
        _follow(place, path)


def _follow(home: Home, path: Path) -> None:
    """Prints what is appended until Ctrl-C, or until the stack has ended and all was printed."""
    position = path.stat().st_size
    while True:
        length = path.stat().st_size
        if length < position:  # cut by the rotation
            position = 0
        if length > position:
            with path.open("rb") as file:
                file.seek(position)
                text = file.read(length - position)
            position += len(text)
            typer.echo(text.decode(errors="replace"), nl=False)
        elif lock.holder(home) is None:
            return
        else:
            time.sleep(_LOG_POLL)
