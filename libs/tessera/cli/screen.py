"""What `up` and `status` draw."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from devstack.state import ProcessPhase, ProcessState, StackPhase, StackState
from tessera.cli.output import human_bytes

_MARKS = {
    ProcessPhase.WAITING: ("·", "dim"),
    ProcessPhase.STARTING: ("◌", "yellow"),
    ProcessPhase.HEALTHY: ("●", "green"),
    ProcessPhase.UNHEALTHY: ("●", "yellow"),
    ProcessPhase.RESTARTING: ("↻", "red"),
    ProcessPhase.STOPPING: ("◌", "yellow"),
    ProcessPhase.STOPPED: ("○", "dim"),
}
_PURPOSES = {
    "objectstore": "S3: artifacts, checkpoints, volumes (SeaweedFS)",
    "kafka": "Kafka: the event bus (Tansu on S3)",
    "clickhouse": "ClickHouse: tables, inference logs, drift (chDB)",
    "triton": "Triton: runs the models",
    "catalog": "data, models, grants, lineage",
    "tracking": "experiments, runs, metrics, artifacts",
    "training": "jobs, checkpoints",
    "inference": "endpoints, and the gateway that serves them",
    "inference-sink": "payloads from Kafka into inference tables",
    "monitoring": "profiles, drift, quality, alerts",
}


@contextlib.contextmanager
def start_screen(console: Console) -> Iterator[Callable[[StackState], None]]:
    """Shows every process while it starts; yields what to call with each new state.

    Where standard error is no terminal, one line is printed when a process becomes healthy.
    """
    if not console.is_terminal:
        yield _PlainProgress(console).tell
        return
    began = time.monotonic()
    latest: list[StackState] = []

    class _Screen:
        def __rich__(self) -> RenderableType:
            return _starting(latest[-1] if latest else None, time.monotonic() - began)

    with Live(_Screen(), console=console, refresh_per_second=12, transient=True):
        yield latest.append


class _PlainProgress:
    """One line per process that became healthy."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] = set()

    def tell(self, state: StackState) -> None:
        """Prints what is new."""
        for process in state.processes:
            if process.state is ProcessPhase.HEALTHY and process.name not in self._told:
                self._told.add(process.name)
                self._console.print(f"{process.name} healthy after {process.ready_seconds} s")


def _starting(state: StackState | None, seconds: float) -> RenderableType:
    processes = state.processes if state else []
    healthy = sum(process.state is ProcessPhase.HEALTHY for process in processes)
    title = Text.assemble(
        ("Tessera", "bold"), f" is starting   {healthy} of {len(processes)}   {seconds:.1f} s"
    )
    table = Table.grid(padding=(0, 2))
    for process in processes:
        table.add_row(_mark(process), process.name, _progress_text(process))
    heading = Spinner("dots", text=title, style="cyan")
    return Group(heading, Padding(table, (1, 0, 0, 2)))


def _mark(process: ProcessState) -> RenderableType:
    if process.state is ProcessPhase.STARTING:
        return Spinner("dots", style="yellow")
    mark, style = _MARKS[process.state]
    return Text(mark, style=style)


def _progress_text(process: ProcessState) -> Text:
    if process.state is ProcessPhase.HEALTHY:
        return Text(f"{process.ready_seconds:.1f} s", style="green")
    if process.message:
        return Text(process.message, style="red")
    return Text(process.state.value, style="dim")


def print_welcome(console: Console, state: StackState, seconds: float) -> None:
    """The screen of a stack that is up: what runs where, how to connect, how to stop."""
    heading = Text.assemble(
        ("Tessera is up", "bold green"),
        f"   {len(state.processes)} processes in {seconds:.1f} s, {_memory(state)} of memory",
    )
    home = _short(state.home)
    parts: list[RenderableType] = [
        process_table(state),
        Rule("Connect", style="dim", align="left"),
        Syntax(_connect_lines(state), "bash", theme="ansi_dark", background_color="default"),
        Rule("Look around", style="dim", align="left"),
        _hints(home),
    ]
    console.print(Panel(Group(*parts), title=heading, title_align="left", box=box.ROUNDED))


def print_status(console: Console, state: StackState) -> None:
    """The table of `status`."""
    style = "green" if state.state is StackPhase.RUNNING and is_healthy(state) else "yellow"
    facts = f"   pid {state.supervisor.pid}, since {state.supervisor.started_at}, {_memory(state)}"
    if state.state is StackPhase.STOPPED:
        style, facts = "dim", f"   start it with {_command('up', _short(state.home))}"
    console.print(Text.assemble((f"Tessera is {state.state.value}", f"bold {style}"), facts))
    console.print(process_table(state))
    console.print(Text.assemble(("admin token  ", "dim"), _short(state.files["admin_token"])))


def process_table(state: StackState) -> Table:
    """Every process with its health, doors, memory and last problem."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for heading in ("", "process", "what", "where"):
        table.add_column(heading, overflow="fold")
    for heading in ("ready", "memory", "restarts"):
        table.add_column(heading, justify="right", no_wrap=True)
    kind = None
    for process in state.processes:
        if kind not in (None, process.kind):
            table.add_section()
        kind = process.kind
        table.add_row(*_row(process))
    return table


def is_healthy(state: StackState) -> bool:
    """Whether every process is."""
    return all(process.state is ProcessPhase.HEALTHY for process in state.processes)


def _row(process: ProcessState) -> tuple[RenderableType, ...]:
    mark, style = _MARKS[process.state]
    what = Text(_PURPOSES.get(process.name, ""), style="dim")
    if process.state is not ProcessPhase.HEALTHY:
        what = Text(f"{process.state.value} {process.message}".strip(), style=style)
    ready = f"{process.ready_seconds:.1f} s" if process.ready_seconds is not None else "-"
    memory = human_bytes(process.pss_bytes) if process.pss_bytes else "-"
    restarts = Text(str(process.restarts), style="yellow" if process.restarts else "dim")
    return (
        Text(mark, style=style),
        Text(process.name, style="bold"),
        what,
        _doors(process),
        Text(ready, style="dim"),
        memory,
        restarts,
    )


def _doors(process: ProcessState) -> Text:
    """The doors that people use; those of Prometheus are in `status --json`."""
    shown = [(name, door) for name, door in process.doors.items() if not name.endswith("_metrics")]
    if len(shown) == 1:
        return Text(shown[0][1], style="cyan")
    lines = [Text.assemble((door, "cyan"), (f" {name}", "dim")) for name, door in shown]
    return Text("\n").join(lines)


def _connect_lines(state: StackState) -> str:
    doors, home = state.doors, _short(state.home)
    lines = [f"export TESSERA_HOME={home}   # the client and the command line find everything here"]
    if "catalog" in doors:
        token = f'-H "authorization: Bearer $(cat {home}/admin.token)"'
        lines += [
            "python -c 'from tessera import Client; print(Client().catalog.list_catalogs())'",
            f"grpcurl -plaintext {token} {doors['catalog']} list",
        ]
    if "gateway" in doors:
        lines.append(f"export TESSERA_GATEWAY_TARGET={doors['gateway']}   # tritonclient, OIP v2")
    if "kafka" in doors:
        lines.append(f"export TESSERA_KAFKA_BOOTSTRAP={doors['kafka']}")
    if "clickhouse" in doors:
        credentials = f"{home}/credentials/clickhouse.json"
        secret = f"jq -r '.user+\":\"+.secret' {credentials}"
        lines.append(f'curl -u "$({secret})" {doors["clickhouse"]} -d "SELECT version()"')
    return "\n".join(lines)


def _hints(home: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("admin token", style="dim"), f"{home}/admin.token")
    for verb, meaning in (
        ("status", "what runs where (--json for scripts)"),
        ("logs NAME -f", "follow a process"),
        ("down", "stop; the data stays"),
    ):
        table.add_row(Text(meaning, style="dim"), _command(verb, home))
    return table


def _command(verb: str, home: str) -> str:
    known = home in (".tessera", os.environ.get("TESSERA_HOME"))
    return f"tessera {verb}" + ("" if known else f" --home {home}")


def _memory(state: StackState) -> str:
    used = sum(process.pss_bytes for process in state.processes) + state.supervisor.rss_bytes
    return human_bytes(used)


def _short(path: str) -> str:
    """A path as short as it can be written from here."""
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path
