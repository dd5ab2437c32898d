"""What `up` and `status` draw."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from devstack.state import ProcessPhase, ProcessState, StackPhase, StackState
from tessera.cli.output import command_name
from tessera_kit.units import human_bytes

_WIDE = 110
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
    "inference": "endpoints, and the gateway before the models",
    "inference-shipper": "payloads from the gateway's disk to Kafka",
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
    """The screen of a stack that is up: what runs where, how to connect, how to stop.

    Lines to copy stand without a frame and are never broken.
    """
    facts = f"   {len(state.processes)} processes in {seconds:.1f} s, {_memory(state)} of memory"
    console.print()
    console.print(Text.assemble(("● Tessera is up", "bold green"), (facts, "dim")))
    console.print(process_table(console, state))
    home = _short(state.home)
    _heading(console, "Connect")
    for line, comment in _connect_lines(state, home):
        console.print(Text.assemble("  ", line, (f"  # {comment}", "dim")), soft_wrap=True)
    _heading(console, "Look around")
    for line, comment in _hints(home):
        hint = Text.assemble("  ", line.ljust(34), (f"  # {comment}", "dim"))
        console.print(hint, soft_wrap=True)
    console.print()


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def print_status(console: Console, state: StackState) -> None:
    """The table of `status`."""
    style = "green" if state.state is StackPhase.RUNNING and is_healthy(state) else "yellow"
    facts = f"   pid {state.supervisor.pid}, since {state.supervisor.started_at}, {_memory(state)}"
    if state.state is StackPhase.STOPPED:
        style, facts = "dim", f"   start it with `{_command('up', _short(state.home))}`"
    heading = (f"● Tessera is {state.state.value}", f"bold {style}")
    console.print(Text.assemble(heading, (facts, "dim")))
    console.print(process_table(console, state))
    console.print(Text.assemble(("admin token  ", "dim"), _short(state.files["admin_token"])))


def process_table(console: Console, state: StackState) -> Table:
    """Every process with its health, doors, memory and last problem."""
    wide = console.width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for heading in ("", "process", "where", "what"):
        if wide or heading != "what":
            table.add_column(heading, overflow="fold")
    for heading in ("ready", "memory", "restarts"):
        table.add_column(heading, justify="right", no_wrap=True)
    kind = None
    for process in state.processes:
        if kind not in (None, process.kind):
            table.add_section()
        kind = process.kind
        table.add_row(*_row(process, wide))
    return table


def is_healthy(state: StackState) -> bool:
    """Whether every process is."""
    return all(process.state is ProcessPhase.HEALTHY for process in state.processes)


def _row(process: ProcessState, wide: bool) -> tuple[RenderableType, ...]:
    mark, style = _MARKS[process.state]
    plain = process.state in (ProcessPhase.HEALTHY, ProcessPhase.STOPPED)
    problem = Text(f"{process.state.value} {process.message}".strip(), style=style)
    where = _doors(process)
    if not plain and not wide:
        where = Text("\n").join((where, problem))
    what = Text(_PURPOSES.get(process.name, ""), style="dim") if plain else problem
    ready = f"{process.ready_seconds:.1f} s" if process.ready_seconds is not None else "-"
    memory = human_bytes(process.pss_bytes) if process.pss_bytes else "-"
    restarts = Text(str(process.restarts), style="yellow" if process.restarts else "dim")
    return (
        *(Text(mark, style=style), Text(process.name, style="bold"), where),
        *((what,) if wide else ()),
        *(Text(ready, style="dim"), memory, restarts),
    )


def _doors(process: ProcessState) -> Text:
    """The doors that people use; those of Prometheus are in `status --json`."""
    shown = [(name, door) for name, door in process.doors.items() if not name.endswith("_metrics")]
    if len(shown) == 1:
        return Text(shown[0][1], style="cyan")
    lines = [
        Text.assemble((door, "cyan"), (f" {_door_label(process, name)}", "dim"))
        for name, door in shown
    ]
    return Text("\n").join(lines)


def _door_label(process: ProcessState, door: str) -> str:
    """A door's name without what its address and its process say already."""
    name = door.removesuffix("_http")
    return "" if name == process.name else name.removeprefix(f"{process.name}_")


def _connect_lines(state: StackState, home: str) -> list[tuple[str, str]]:
    """Lines to copy, with what each is for."""
    doors = state.doors
    lines = [(f"export TESSERA_HOME={home}", "the client and the command line find the rest")]
    if "catalog" in doors:
        token = f'-H "authorization: Bearer $(cat {home}/admin.token)"'
        asking = "from tessera import Client; print(list(Client().catalog.list_catalogs()))"
        lines.append((f"{_short(sys.executable)} -c '{asking}'", "Python"))
        lines.append((f"grpcurl -plaintext {token} {doors['catalog']} list", "any gRPC client"))
    if "gateway" in doors:
        lines.append((doors["gateway"], "Open Inference Protocol v2: point tritonclient here"))
    if "gateway_http" in doors:
        lines.append((doors["gateway_http"], "the same by HTTP, and MLflow's scoring"))
    if "tracking_http" in doors:
        signed_in = f"MLFLOW_TRACKING_TOKEN=$(cat {home}/admin.token)"
        uri = f"MLFLOW_TRACKING_URI={doors['tracking_http']}"
        lines.append((f"export {uri} {signed_in}", "unmodified mlflow clients"))
    if "kafka" in doors:
        lines.append((doors["kafka"], "Kafka bootstrap servers"))
    if "clickhouse" in doors:
        secret = f"jq -r '.user+\":\"+.secret' {home}/credentials/clickhouse.json"
        query = f'curl -u "$({secret})" {doors["clickhouse"]} -d "SHOW TABLES"'
        lines.append((query, "ClickHouse, SQL over HTTP"))
    return lines


def _hints(home: str) -> list[tuple[str, str]]:
    return [
        (f"{home}/admin.token", "the administrator's token"),
        (_command("status", home), "what runs where (--json for scripts)"),
        (_command("logs NAME -f", home), "follow a process"),
        (_command("down", home), "stop; the data stays"),
    ]


def _command(verb: str, home: str) -> str:
    known = home in (".tessera", os.environ.get("TESSERA_HOME"))
    return f"{command_name()} {verb}" + ("" if known else f" --home {home}")


def _memory(state: StackState) -> str:
    used = sum(process.pss_bytes for process in state.processes) + state.supervisor.rss_bytes
    return human_bytes(used)


def _short(path: str) -> str:
    """A path as short as it can be written from here."""
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path
