"""The verbs of single answers: rows in, a table or JSON out; an explanation as a tree."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as oip

from tessera.cli import answers
from tessera.cli import main as command
from tessera.client.answers import RowPrediction
from tessera.inference.v1 import explanation_pb2 as pb


class Inference:
    """The client's part, answering from memory."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def predict_rows(self, endpoint: str, rows: Any, **named: Any) -> RowPrediction:
        self.asked.append((endpoint, rows, named))
        if rows == {"x": [[1], [2, 3]]}:
            raise ValueError("column 'x': its rows' values differ in shape")
        columns = {"p": np.array([0.5, 1.5], np.float32)}
        return RowPrediction(columns, 2, "id-1", "", "m-2", "a.b.m", 2, 4)

    def model_metadata(self, endpoint: str) -> oip.ModelMetadataResponse:
        found = oip.ModelMetadataResponse(name=endpoint)
        for name, datatype in (("x", "FP32"), ("n", "INT64"), ("c", "BYTES"), ("b", "BOOL")):
            found.inputs.add(name=name, datatype=datatype)
        return found

    def explain_request(self, request_id: str = "", **named: Any) -> pb.RequestExplanation:
        self.asked.append((request_id, named))
        found = pb.RequestExplanation(
            tessera_request_id="id-1",
            endpoint="flights[1]",
            config_version=4,
            route=pb.ANSWER_ROUTE_PRIMARY,
            served_entity="m-2",
            requester="ada",
            inference_table_full_name="a.b.flights_payload",
            model=pb.ModelOrigin(
                model_name="a.b.m",
                model_version=2,
                created_by="mia",
                run=pb.TrainingRun(run_id="run-1", name="train", git_commit="0123abc"),
                job_id="job-1",
                tables=[pb.TrainingTable(full_name="a.b.rows", version="v3", context="training")],
            ),
            gaps=[pb.ExplanationGap(part="lineage", reason="ada needs BROWSE")],
        )
        found.requested_at.FromJsonString("2026-11-27T05:00:00Z")
        return found


@pytest.fixture
def inference(monkeypatch: pytest.MonkeyPatch) -> Inference:
    made = Inference()

    class Client:
        inference = made

        def __enter__(self) -> Any:
            return SimpleNamespace(inference=made)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(answers, "Client", Client)
    monkeypatch.setenv("COLUMNS", "200")
    return made


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        command.main(words)
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_rows_are_asked_and_answered(
    capsys: pytest.CaptureFixture[str], inference: Inference
) -> None:
    given = [{"x": 1}, {"x": 2.5}]
    code, out, err = run(capsys, "predict", "flights", json.dumps(given), "--model-version", "2")
    assert code == 0, err
    ((endpoint, rows, named),) = inference.asked
    assert (endpoint, rows, named["model_version"]) == ("flights", given, 2)
    assert "0.5" in out
    assert "a.b.m version 2" in err
    assert "id-1" in err
    assert run(capsys, "predict", "flights", '{"x": 1, "c": "UA"}')[0] == 0
    assert inference.asked[-1][1] == [{"x": 1, "c": "UA"}], "an object of values is one row"
    code, out, _ = run(capsys, "predict", "flights", '{"x": [1, 2]}', "--json")
    told = json.loads(out)
    assert told["rows"] == [{"p": 0.5}, {"p": 1.5}]
    assert (told["tessera_request_id"], told["config_version"]) == ("id-1", 4)


def test_cells_of_csv_become_what_the_inputs_are(
    capsys: pytest.CaptureFixture[str], inference: Inference, tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("x,n,c,b,other\n1,2,07,true,z\n,3,UA,False,z\n")
    code, _, err = run(capsys, "predict", "flights", f"@{file}")
    assert code == 0, err
    ((_, rows, _),) = inference.asked
    assert rows == {
        "x": [1.0, None],
        "n": [2, 3],
        "c": ["07", "UA"],
        "b": [True, False],
        "other": ["z", "z"],
    }
    for text, problem in (
        ("", "line of column names"),
        ("x,n\n1\n", "1 values for 2 columns"),
        ("n\n1.5\n", "'n' is INT64"),
        ("b\nmaybe\n", "'b' is BOOL"),
    ):
        file.write_text(text)
        code, _, err = run(capsys, "predict", "flights", f"@{file}")
        assert code == 2
        assert problem in " ".join(err.split()), err


def test_values_that_no_column_has_are_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], inference: Inference
) -> None:
    code, _, err = run(capsys, "predict", "flights", '{"x": [[1], [2, 3]]}')
    assert (code, "differ in shape" in err) == (2, True)


def test_an_explanation_is_a_tree(capsys: pytest.CaptureFixture[str], inference: Inference) -> None:
    code, out, err = run(capsys, "explain", "id-1")
    assert code == 0, err
    assert inference.asked == [("id-1", {"endpoint": ""})]
    for part in (
        *("id-1 OK", "asked by ada", "flights[1]", "configuration 4", "route primary", "m-2"),
        *("a.b.m version 2, registered by mia", "run run-1", "commit 0123abc", "job job-1"),
        *("a.b.rows (training, version v3)", "lineage not told: ada needs BROWSE"),
    ):
        assert part in out, part
    columns = [
        next(line.index(part) for line in out.splitlines() if part in line)
        for part in ("served entity", "model a.b.m", "run run-1", "commit")
    ]
    assert columns == sorted(set(columns)), "what made it lies below it"
    code, out, _ = run(capsys, "explain", "mine", "--client", "--endpoint", "flights", "--json")
    assert inference.asked[1] == ("", {"client_request_id": "mine", "endpoint": "flights"})
    assert json.loads(out)["model"]["run"]["git_commit"] == "0123abc"
