"""The verbs of single answers: ask for one, what it came from, its body as it was kept."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.tree import Tree

from tessera.cli.arguments import LARGEST, new_file, read_text
from tessera.cli.messages import rows as as_rows
from tessera.cli.messages import when
from tessera.cli.output import Column, JsonOption, console, print_json, print_rows, print_success
from tessera.client.answers import RowPrediction
from tessera.client.sync.client import Client

_PANEL = "Serving"
_STATUSES = {0: "OK", 1: "CANCELLED", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED"} | {
    **{5: "NOT_FOUND", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED"},
    **{9: "FAILED_PRECONDITION", 13: "INTERNAL", 14: "UNAVAILABLE", 16: "UNAUTHENTICATED"},
}


class Side(StrEnum):
    """Which of the two bodies of a request."""

    REQUEST = "request"
    RESPONSE = "response"


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    for verb in (predict, explain, payload):
        app.command(verb.__name__, rich_help_panel=_PANEL)(verb)


def predict(
    endpoint: Annotated[str, typer.Argument(help="An endpoint's name.")],
    rows: Annotated[
        str,
        typer.Argument(
            help='Rows as JSON, [{"x": 1}, …], {"x": 1} or {"x": [1, …]}; @file.json, @file.csv '
            "or - for CSV or JSON from standard input."
        ),
    ],
    model_version: Annotated[
        int,
        typer.Option(help="The served version that shall answer; 0 for any.", min=0, max=LARGEST),
    ] = 0,
    client_request_id: Annotated[str, typer.Option(help="Your own id of the request.")] = "",
    sticky_key: Annotated[str, typer.Option(help="Keeps requests at one entity.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Ask an endpoint for predictions of rows."""
    text, is_csv = _read(rows)
    given = None if is_csv else _from_json(text)
    with Client() as client:
        if given is None:
            specs = client.inference.model_metadata(endpoint).inputs
            given = _from_csv(text, {spec.name: spec.datatype for spec in specs})
        try:
            answer = client.inference.predict_rows(
                endpoint,
                given,
                client_request_id=client_request_id,
                model_version=model_version,
                sticky_key=sticky_key,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    _print_answer(answer, as_json=as_json)


def _print_answer(answer: RowPrediction, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "rows": answer.rows,
                "tessera_request_id": answer.request_id,
                "client_request_id": answer.client_request_id,
                "served_entity": answer.served_entity,
                "model_name": answer.model_name,
                "model_version": answer.model_version,
                "config_version": answer.config_version,
            }
        )
        return
    columns = [
        Column(name, name, partial(_shortest, array.dtype.type), "right")
        for name, array in answer.columns.items()
    ]
    print_rows(answer.rows, columns, as_json=False)
    print_success(
        f"{answer.model_name} version {answer.model_version} ({answer.served_entity}) answered "
        f"request {answer.request_id}"
    )


def _shortest(kind: type[np.generic], value: Any) -> str:
    """A cell with as many digits as its type tells apart: 0.1 and not 0.10000000149011612."""
    if isinstance(value, list):
        return f"[{', '.join(_shortest(kind, one) for one in value)}]"
    if kind in (np.float16, np.float32) and isinstance(value, float):
        return str(kind(value))
    return escape(str(value))


def explain(
    request_id: Annotated[
        str, typer.Argument(help="An answer's tessera_request_id, or your own id with --client.")
    ],
    endpoint: Annotated[str, typer.Option(help="The endpoint that was asked, if known.")] = "",
    client: Annotated[
        bool, typer.Option("--client", help="The id is your own; needs --endpoint.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what produced an answer: configuration, model version, run, commit and tables."""
    named = {"client_request_id": request_id} if client else {"request_id": request_id}
    with Client() as connected:
        found = connected.inference.explain_request(**named, endpoint=endpoint)
    (told,) = as_rows([found])
    if as_json:
        print_json(told)
        return
    console().print(_tree(told))


def payload(
    table: Annotated[str, typer.Argument(help="An inference table, or an endpoint's name.")],
    request_id: Annotated[str, typer.Argument(help="The row's tessera_request_id.")],
    side: Annotated[Side, typer.Argument(help="Which of the two bodies.")] = Side.RESPONSE,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file instead of standard output.")
    ] = None,
) -> None:
    """Fetch the body of a request or of its response, those too that are too large for a row."""
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        chunks = client.inference.payload_chunks(table, request_id, side.value)
        file = sys.stdout.buffer if output is None else stack.enter_context(new_file(output))
        for chunk in chunks:
            file.write(chunk)


def _read(rows: str) -> tuple[str, bool]:
    """The text of rows, and whether it is CSV."""
    if rows == "-":
        text = sys.stdin.read()
        return text, text.lstrip()[:1] not in ("[", "{")
    if rows.startswith("@"):
        path = Path(rows[1:])
        return read_text(path), path.suffix.lower() == ".csv"
    return rows, False


def _from_json(text: str) -> Sequence[Mapping[str, Any]] | Mapping[str, Any]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"the rows are not JSON: {error}") from None
    if isinstance(given, dict) and all(isinstance(cells, list) for cells in given.values()):
        return given
    if isinstance(given, dict) and not any(
        isinstance(cell, (list, dict)) for cell in given.values()
    ):
        return [given]
    if isinstance(given, list) and all(isinstance(row, dict) for row in given):
        return given
    raise typer.BadParameter(
        "the rows must be a JSON list of objects, an object, or an object of lists: each column by "
        "its name"
    )


def _from_csv(text: str, datatypes: Mapping[str, str]) -> dict[str, list[Any]]:
    """Columns of CSV with a line of names first, each cell as its input's type."""
    lines = [line for line in csv.reader(io.StringIO(text)) if line]
    if not lines:
        raise typer.BadParameter("the CSV must begin with a line of column names")
    names, *cells = lines
    for number, line in enumerate(cells, 1):
        if len(line) != len(names):
            raise typer.BadParameter(
                f"line {number} of the CSV has {len(line)} values for {len(names)} columns"
            )
    return {
        name: [_value(name, line[at], datatypes.get(name, "BYTES")) for line in cells]
        for at, name in enumerate(names)
    }


def _value(name: str, text: str, datatype: str) -> Any:
    if datatype == "BYTES":
        return text
    if not text.strip():
        return None
    try:
        if datatype == "BOOL":
            return {"true": True, "false": False}[text.strip().lower()]
        return float(text) if datatype.startswith("FP") else int(text)
    except (ValueError, KeyError):
        raise typer.BadParameter(f"column {name!r} is {datatype} and has {text[:32]!r}") from None


def _tree(told: Mapping[str, Any]) -> Tree:
    """An explanation, from the answer down to the tables."""
    status = _STATUSES.get(told["status_code"], str(told["status_code"]))
    style = "green" if told["status_code"] == 0 else "red"
    tree = Tree(
        f"[bold]{escape(told['tessera_request_id'])}[/bold] [{style}]{status}[/{style}] "
        f"{when(told['requested_at'])}"
    )
    if told["client_request_id"]:
        tree.add(f"its caller's id {escape(told['client_request_id'])}")
    if told["status_message"]:
        tree.add(f"[red]{escape(told['status_message'])}[/red]")
    tree.add(f"asked by {escape(told['requester']) or '[dim]nobody known[/dim]'}")
    route = told["route"].removeprefix("ANSWER_ROUTE_").lower()
    asked = tree.add(
        f"endpoint [bold]{escape(told['endpoint'])}[/bold], configuration "
        f"{told['config_version']}, route {route}"
    )
    asked.add(f"kept in {escape(told['inference_table_full_name'])}")
    for failed in told["failed_served_entities"]:
        asked.add(f"[yellow]{escape(failed)} failed before[/yellow]")
    if told.get("model"):
        _add_model(asked.add(f"served entity {escape(told['served_entity'])}"), told["model"])
    for gap in told["gaps"]:
        part = gap["part"].replace("_", " ")
        tree.add(f"[yellow]{part} not told: {escape(gap['reason'])}[/yellow]")
    return tree


def _add_model(tree: Tree, model: Mapping[str, Any]) -> None:
    made = f", registered by {escape(model['created_by'])}" if model["created_by"] else ""
    node = tree.add(
        f"model [bold]{escape(model['model_name'])}[/bold] version {model['model_version']}{made}"
    )
    for logged in model["logged_model_ids"]:
        node.add(f"logged model {escape(logged)}")
    making = node
    if run := model.get("run"):
        making = node.add(
            f"run {escape(run['run_id'])} {escape(run['name'])}, by {escape(run['created_by'])}"
        )
        if run["git_commit"]:
            places = ", ".join(filter(None, (run["git_branch"], run["git_repository"])))
            commit = escape(run["git_commit"])
            making.add(f"commit [bold]{commit}[/bold]" + (f" ({escape(places)})" if places else ""))
        if run["source_name"]:
            making.add(f"program {escape(run['source_name'])}")
    if model["job_id"]:
        making.add(f"job {escape(model['job_id'])}")
    for table in model["tables"]:
        version = f"version {table['version']}" if table["version"] else ""
        about = ", ".join(filter(None, (table["context"], version)))
        named = f"table [bold]{escape(table['full_name'])}[/bold]"
        making.add(named + (f" ({escape(about)})" if about else ""))
