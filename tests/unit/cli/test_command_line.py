"""The command line without a stack: help, wrong verbs, clear errors, tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from devstack.plan import ENGINES
from devstack.services import SERVICES
from devstack.state import ProcessPhase, ProcessState, StackPhase, StackState, SupervisorState
from devstack.state import write_state as write
from tessera.cli import main as command
from tessera.cli.arguments import new_file
from tessera.cli.output import Column, describe_error, print_rows
from tessera.cli.screen import process_table
from tessera.tracking.v1 import tracking_pb2, tracking_service_pb2
from tessera_kit.errors import FieldViolation, InvalidArgument, Unavailable
from tessera_kit.units import human_bytes, human_duration


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        command.main(words)
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def stopped_state(home: Path) -> StackState:
    state = StackState(str(home), SupervisorState(1, "2026-11-23T06:00:00Z"), {"admin_token": "x"})
    state.state = StackPhase.RUNNING
    doors = {"kafka": "127.0.0.1:9092"}
    kafka = ProcessState("kafka", "engine", doors, str(home / "kafka.log"), pid=1)
    kafka.state = ProcessPhase.HEALTHY
    state.processes, state.doors = [kafka], doors
    return state


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verbs in command.MODULES.values():
        for verb in verbs:
            assert verb in out


def test_every_listed_verb_exists() -> None:
    for verbs in command.MODULES.values():
        for verb in verbs:
            group = typer.main.get_command(command.build_app(verb))
            assert verb in getattr(group, "commands", {})


def test_help_tells_where_models_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "up", "--help")
    assert code == 0
    told = " ".join(_unboxed(out).split())
    assert "Models run in a process of Triton's own; TESSERA_RUNTIME=inside runs" in told


def test_every_process_says_what_it_is_for(tmp_path: Path) -> None:
    console = Console(width=200, record=True, file=StringIO())
    state = stopped_state(tmp_path)
    names = (*ENGINES, *SERVICES)
    state.processes = [
        ProcessState(name, "engine", {}, "x.log", ProcessPhase.HEALTHY) for name in names
    ]
    console.print(process_table(console, state))
    shown = {line.split()[1]: line.split()[2:-3] for line in _rows(console.export_text())}
    assert shown.keys() == set(names)
    assert all(shown.values())
    told = {name: " ".join(words) for name, words in shown.items()}
    assert told["inference"] == "endpoints, and the gateway before the models"
    assert told["triton"] == "Triton: runs the models"


def _rows(table: str) -> list[str]:
    return [line for line in table.splitlines() if "●" in line]


def test_a_wrong_verb_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "statsu")
    assert code == 2
    assert "status" in err


def test_an_error_is_one_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "status", "--home", str(tmp_path))
    assert (code, out) == (1, "")
    assert "no stack has run in" in err.replace("\n", " ")
    assert "Traceback" not in err


def test_an_error_is_never_broken_and_names_what_the_user_typed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / ("a long name " * 10)
    monkeypatch.setenv("TESSERA_COMMAND", "infra/run")
    _, _, err = run(capsys, "status", "--home", str(home))
    assert err == f"error: no stack has run in {home}; start one with `infra/run up`\n"
    code, _, err = run(capsys, "logs", "--nothing")
    assert code == 2
    assert "Usage: infra/run logs" in err


def test_the_status_of_a_killed_stack_says_stopped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write(tmp_path / "stack.json", stopped_state(tmp_path))
    code, out, _ = run(capsys, "status", "--home", str(tmp_path), "--json")
    described = json.loads(out)
    assert code == 3
    assert described["state"] == "stopped"
    assert described["processes"][0]["state"] == "stopped"
    assert described["doors"] == {"kafka": "127.0.0.1:9092"}


def test_down_where_nothing_runs_is_no_failure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "down", "--home", str(tmp_path))
    assert code == 0
    assert "no stack runs" in err


def test_logs_are_the_last_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "kafka.log").write_text("one\ntwo\nthree\n")
    code, out, _ = run(capsys, "logs", "kafka", "-n", "2", "--home", str(tmp_path))
    assert (code, out) == (0, "two\nthree\n")
    code, _, err = run(capsys, "logs", "nothing", "--home", str(tmp_path))
    assert code == 1
    assert "kafka" in err


def test_a_listing_is_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "a[b]", "size": 1_400_000_000, "note": None}]
    columns = [Column("name", "name"), Column("size", "size", human_bytes), Column("note", "note")]
    print_rows(rows, columns, as_json=True)
    assert json.loads(capsys.readouterr().out) == rows
    print_rows(rows, columns, as_json=False)
    table = capsys.readouterr().out
    assert "a[b]" in table
    assert "1.4 GB" in table
    print_rows([], columns, as_json=True)
    assert json.loads(capsys.readouterr().out) == []
    print_rows([], columns, as_json=False, empty="no runs yet")
    assert "no runs yet" in capsys.readouterr().out


def test_what_is_read_by_a_program_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "long-" * 60, "note": "words " * 60}]
    print_rows(rows, [Column("name", "name"), Column("note", "note")], as_json=False)
    out = capsys.readouterr().out
    assert rows[0]["name"] in out
    assert rows[0]["note"].strip() in out


def test_rows_of_many_columns_are_blocks_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"column_{number}" for number in range(40)]
    rows = [{name: f"{name}[{row}]" for name in names} for row in range(2)]
    print_rows(rows, [Column(name, name) for name in names], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (1 + len(names))
    assert lines[1].split() == ["column_0", "column_0[0]"]


def test_a_quickstart_that_is_interrupted_says_what_is_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tessera.cli.quickstart._quickstart", interrupted)
    code, out, err = run(capsys, "quickstart", "--home", str(tmp_path))
    assert (code, out) == (130, "")
    assert "Stopped in the middle" in err
    assert "The stack goes on" not in err


def test_violations_are_told_field_by_field() -> None:
    wrong = FieldViolation("metrics[3].key", "must not be empty")
    error = InvalidArgument("2 fields are wrong", violations=[wrong])
    assert describe_error(error) == "2 fields are wrong\n  metrics[3].key: must not be empty"
    assert describe_error(ValueError("a defect")) is None


def test_a_single_violation_is_told_once() -> None:
    wrong = FieldViolation("name", "must not be empty")
    error = InvalidArgument("name must not be empty", violations=[wrong])
    assert describe_error(error) == "name must not be empty"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("sta", "status"), ("endpoints", "endpoints"), ("logs supe", "supervisor")],
)
def test_a_shell_completes_verbs_and_processes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    typed: str,
    expected: str,
) -> None:
    words = f"tessera {typed}"
    monkeypatch.delenv("TESSERA_COMMAND", raising=False)
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    monkeypatch.setenv("_TESSERA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    _, out, _ = run(capsys)
    assert out.split()[0] == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.41, "0.4 s"), (12.3, "12 s"), (185, "3 m 5 s"), (7800, "2 h 10 m"), (356400, "4 d 3 h")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1_500_000, "2 MB")])
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ("{bad", "are not JSON"),
        ("[1]", "must be a JSON list of objects"),
        ('{"x": [1], "y": 1}', "must be a JSON list of objects"),
        ("@{file}", "is not UTF-8 text"),
    ],
)
def test_inputs_that_are_none_are_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, inputs: str, problem: str
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"\xff\xfe")
    code, _, err = run(capsys, "predict", "endpoint", inputs.replace("{file}", str(file)))
    assert code == 2
    assert problem in _unboxed(err)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("lineage frob x", "'frob' has no lineage; these have: table"),
        ("grants frob", "'frob' is no kind of object"),
        ("grant ada frob --on table", "are not all privileges"),
        ("rows a.b.c --limit 99999999999999999999", "less than or equal to"),
        ("job-logs j --attempt 99999999999", "less than or equal to"),
        ("predict e [] --model-version -3", "greater than or equal to 0"),
        ("traffic e a=101", "a share of 0 to 100"),
        ("traffic e a=²", "a share of 0 to 100"),
        ("canary e m ²", "is not percent:seconds:requests"),
        ("deploy e a.b.m", "is not like main.default.m/3"),
        ("deploy e a.b.m/1@champion", "is not like main.default.m/3"),
        ("deploy e a.b.m/1 a.b.m/2=10", "with its share of the traffic behind it"),
        ("deploy e a.b.m/1=80 a.b.m/2=10", "must sum to 100"),
        ("canary e m 999999999999:1:1", "is not percent:seconds:requests"),
        ("canary e m 1:1:1:1", "is not percent:seconds:requests"),
        ("rollback e 99999999999999999999", "less than or equal to"),
        ("limits e endpoint=99999999999999999999/minute", "more than can be counted"),
        ("run-export f", "either --run or --experiment"),
        ("run-export f --run a --experiment b", "either --run or --experiment"),
        ("tracking import /no/such/folder", "there is no folder"),
        ("tracking gc --older-than soon", "is no span of time"),
        ("tracking gc --older-than 7", "is no span of time"),
        ("tracking gc --older-than 99999999999d", "is more than 36500d"),
        ("principals create ada --kind frob", "is not one of"),
        ("principals token ada --days 0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], words: str, problem: str
) -> None:
    code, _, err = run(capsys, *words.split())
    assert code == 2
    assert problem in _unboxed(err)


def test_a_token_that_cannot_be_sent_is_a_wrong_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_CATALOG_TARGET", "127.0.0.1:1")
    monkeypatch.setenv("TESSERA_TOKEN", "secret\nline")
    code, _, err = run(capsys, "catalogs")
    assert code == 1
    assert "the token (TESSERA_TOKEN" in err
    assert "secret" not in err


def test_what_mlflow_refuses_is_told_with_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class MlflowException(Exception):
        """As MLflow names its own."""

    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("no such experiment")

    monkeypatch.setattr("tessera.cli.tracking.copy_to_mlflow", refuse)
    monkeypatch.setenv("TESSERA_TRACKING_TARGET", "127.0.0.1:1")
    code, _, err = run(capsys, "tracking", "export", str(tmp_path), "--experiment", "a")
    assert (code, f"MLflow at {tmp_path}: no such experiment" in err) == (1, True)


def test_gc_asks_for_what_it_is_told_and_shows_what_is_removed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    class Tracking:
        def purge_deleted(self, **told: Any) -> tracking_service_pb2.PurgeDeletedResponse:
            asked.append(told)
            thing = tracking_pb2.DeletedThing(
                kind=tracking_pb2.DELETED_KIND_LOGGED_MODEL, id="m-1", experiment_id="0", name="net"
            )
            thing.deleted_at.FromSeconds(1)
            return tracking_service_pb2.PurgeDeletedResponse(things=[thing], under_way=3)

    class Client:
        tracking = Tracking()

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("tessera.cli.tracking.Client", Client)
    options = "--older-than 1d2h3.5m4s --run-ids a,b --run-ids c --experiment-ids 7"
    code, out, err = run(capsys, "tracking", "gc", *options.split())
    assert code == 0
    assert "logged model" in out
    assert "m-1" in out
    assert "1 removed for good; points, spans and files of 3 are being removed" in err
    code, out, err = run(capsys, "tracking", "gc", "--dry-run", "--json")
    assert (code, json.loads(out)[0]["id"]) == (0, "m-1")
    assert "1 would be removed for good" in err
    nothing: dict[str, Any] = {
        "experiment_ids": [],
        "run_ids": [],
        "model_ids": [],
        "older_than": None,
        "dry_run": True,
    }
    assert asked == [
        {
            "experiment_ids": ["7"],
            "run_ids": ["a", "b", "c"],
            "model_ids": [],
            "older_than": timedelta(days=1, hours=2, minutes=3.5, seconds=4),
            "dry_run": False,
        },
        nothing,
    ]


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "out.arrow"
    with pytest.raises(RuntimeError), new_file(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), new_file(target) as file:
        raise RuntimeError
    assert target.read_bytes() == b"old"
    with new_file(target) as file:
        file.write(b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]
    with pytest.raises(FileNotFoundError, match="no such folder"), new_file(target / "x"):
        pass
    with new_file(Path("/dev/null")) as file:
        file.write(b"nowhere")
    assert not Path("/dev/null").is_file()


def test_a_failed_export_leaves_no_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Tracking:
        def export_arrow(self, **_: Any) -> Iterator[bytes]:
            yield b"ARROW"
            raise Unavailable("tracking is away")

    class Client:
        tracking = Tracking()

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("tessera.cli.runs.Client", Client)
    target = tmp_path / "points.arrow"
    code, _, err = run(capsys, "run-export", str(target), "--run", "a")
    assert (code, "tracking is away" in err) == (1, True)
    assert list(tmp_path.iterdir()) == []


def _unboxed(text: str) -> str:
    """A message without the frame and the line ends that it is printed in."""
    return " ".join(text.replace("│", " ").split())


def test_a_call_to_a_stack_that_is_down_says_how_to_start_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    error = Unavailable("failed to connect to all addresses")
    assert describe_error(error) == "failed to connect to all addresses"
    write(tmp_path / "stack.json", stopped_state(tmp_path))
    told = describe_error(error) or ""
    assert told.endswith(f"the stack in {tmp_path} does not run; start it with `tessera up`")


def test_every_listing_prints_json() -> None:
    listings = [
        verb
        for verb in commands(typer.main.get_command(command.build_app()))
        if (verb.help or "").startswith(("List", "Find"))
    ]
    assert len(listings) > 10
    for verb in listings:
        assert any("--json" in option.opts for option in verb.params), verb.name


def commands(group: Any) -> Iterator[Any]:
    """Every command below a group, groups left out."""
    for verb in group.commands.values():
        if hasattr(verb, "commands"):
            yield from commands(verb)
        else:
            yield verb
