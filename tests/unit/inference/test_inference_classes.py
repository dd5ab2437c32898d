"""Classes that users bring: how they are called, and what becomes of what they return."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.inference.runtime.programs.class_worker import SequenceStates, load, outputs_of
from services.inference.runtime.programs.environments import plain_environment
from services.inference.runtime.programs.process import (
    InputRefused,
    ModelHangs,
    ModelProcess,
    ProcessFailed,
)
from services.inference.runtime.programs.tensors import Call, output

ROOT = Path(__file__).parents[3]
Y = {"name": "y", "dtype": "float32", "shape": [-1, 1]}
TEXT = {"name": "text", "dtype": "object", "shape": [-1, 1]}
CODE = """
import os, time

class Model:
    def __init__(self, factor=2):
        self.factor = factor

    def load(self, context):
        self.note = context.folder / "note"
        self.note.write_text(context.device)
        self.invalid = context.InvalidInput

    def predict(self, inputs):
        x = inputs["x"]
        if x[0, 0] == 4:
            raise self.invalid("4 is too much")
        if x[0, 0] == 13:
            raise ValueError("x is " + os.environ["API_TOKEN"])
        if x[0, 0] == 7:
            time.sleep(600)
        return {"y": x * self.factor} if len(x) < 4 else {"y": x[:1]}

    def unload(self):
        self.note.write_text("unloaded")

class Stream(Model):
    def predict(self, inputs):
        try:
            for number in range(int(inputs["x"][0, 0])):
                yield {"y": number}
        finally:
            self.note.write_text("closed")

class Once(Model):
    def predict(self, inputs):
        return {"y": inputs["x"]}

class Total:
    def predict(self, inputs, sequence):
        sequence.state["sum"] = sequence.state.get("sum", 0) + inputs["x"]
        return sequence.state["sum"]

class Nothing:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model_of_a_test.py").write_text(CODE)
    return tmp_path


def told(entry: str = "Model", **changes: Any) -> dict[str, Any]:
    return {
        "entry": f"model_of_a_test:{entry}",
        "arguments": {},
        "inputs": [{"name": "x"}],
        "outputs": [Y],
        "batched": True,
        "streams": False,
        "stateful": False,
        "sequences": None,
        "device": "cpu",
        **changes,
    }


def process(folder: Path, **changes: Any) -> ModelProcess:
    environment = plain_environment(folder, PYTHONPATH=str(ROOT), API_TOKEN="s3cret-token")
    worker = "services.inference.runtime.programs.class_worker"
    command = [sys.executable, "-m", worker, str(folder)]
    return ModelProcess(
        *(command, environment, folder, told(**changes)),
        secrets=["s3cret-token", "2"],
        longest_seconds=60,
        grace_seconds=0.2,
    )


def x(*values: float) -> list[Any]:
    return [np.array(values, np.float32).reshape(-1, 1)]


def test_a_class_is_loaded_answers_and_is_unloaded(folder: Path) -> None:
    model = process(folder, arguments={"factor": 3})
    note = folder / "note"
    assert note.read_text() == "cpu"
    (returned,) = model(x(1, 2))
    assert returned.tolist() == [[3], [6]]
    with pytest.raises(ProcessFailed, match=r"^ValueError: x is \*\*\*$"):
        model(x(13))
    with pytest.raises(InputRefused, match=r"^4 is too much$"):
        model(x(4))
    with pytest.raises(ProcessFailed, match="output 'y' has 1 rows for inputs of 4 rows"):
        model(x(1, 2, 3, 4))
    model.close()
    assert note.read_text() == "unloaded"


def test_a_class_that_nobody_waits_for_is_ended(folder: Path) -> None:
    model = process(folder)
    with pytest.raises(ModelHangs, match="went on after its callers had given up"):
        model.ask(x(7), Call(gave_up=lambda: True))
    assert model(x(1))[0].tolist() == [[2]], "the next request starts it again"
    model.close()


def test_a_class_that_hangs_is_ended(folder: Path) -> None:
    model = process(folder)
    model._longest_seconds = 0.2
    with pytest.raises(ModelHangs, match=r"gave no answer in 0\.2 s"):
        model(x(7))
    model._longest_seconds = 60
    assert model(x(1))[0].tolist() == [[2]]
    model.close()


def test_a_stream_is_passed_on_and_stops_when_it_is_closed(folder: Path) -> None:
    model = process(folder, entry="Stream", streams=True)
    assert [int(one[0][0, 0]) for one in model.stream(x(4), Call())] == [0, 1, 2, 3]
    (folder / "note").unlink()
    responses = model.stream(x(1e9), Call())
    next(responses)
    responses.close()
    assert (folder / "note").read_text() == "closed"
    assert [len(one) for one in model.stream(x(1), Call())] == [1], "it goes on in step"
    given_up = list(model.stream(x(1e9), Call(gave_up=lambda: True)))
    assert 0 < len(given_up) < 1e9
    model.close()


def test_a_class_that_should_stream_must(folder: Path) -> None:
    model = process(folder, entry="Once", streams=True)
    with pytest.raises(ProcessFailed, match="must yield its responses"):
        list(model.stream(x(1), Call()))
    model.close()


def test_a_class_keeps_a_state_for_each_sequence(folder: Path) -> None:
    sequences = {"max_idle_us": 60_000_000}
    model = process(folder, entry="Total", stateful=True, sequences=sequences)

    def add(name: str, value: float, start: bool = False, end: bool = False) -> float:
        turn = {"sequence": {"id": name, "start": start, "end": end}}
        return float(model.ask(x(value), Call(told=turn))[0][0, 0])

    assert [add("a", 1, start=True), add("b", 5, start=True), add("a", 2)] == [1, 5, 3]
    assert add("a", 1, end=True) == 4
    with pytest.raises(ProcessFailed, match="state of the sequence is lost"):
        add("a", 1)
    assert add("b", 1, start=True) == 1
    model.close()


def test_a_class_without_predict_is_refused(folder: Path) -> None:
    with pytest.raises(ProcessFailed, match="model_of_a_test:Nothing has no method predict"):
        process(folder, entry="Nothing")


def test_sequences_that_are_idle_are_forgotten() -> None:
    states = SequenceStates(idle_seconds=0)
    first = states.turn({"id": 1, "start": True, "end": False})
    first.state["held"] = 1
    with pytest.raises(LookupError):
        states.turn({"id": 1, "start": False, "end": False})


def test_load_calls_what_the_class_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "model_of_a_test", raising=False)
    with ExitStack() as ending:
        answer = load(folder, told(), ending)
        (returned,) = answer({}, x(1))
        assert returned.tolist() == [[2]]
    assert (folder / "note").read_text() == "unloaded"


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ({"text": ["a", "ü"], "y": [1, 2]}, [[1, 2], [b"a", "ü".encode()]]),
        ({"text": [[b"a\x00"]], "y": 3.5}, [[[3.5]], [[b"a\x00"]]]),
        ({"text": "word", "y": np.float32(2)}, [[[2]], [[b"word"]]]),
    ],
)
def test_what_a_class_returns_becomes_arrays(returned: Any, expected: list[Any]) -> None:
    assert [array.tolist() for array in outputs_of(returned, [Y, TEXT])] == expected


def _generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ({"text": ["a"]}, "no output 'y'"),
        ({"text": ["a"], "y": [1], "z": 1}, "'z', which is no output"),
        ({"text": ["a"], "y": [[1], [2, 3]]}, "output 'y' is no array"),
        (np.zeros(3), r"ndarray; the signature has the outputs \['y', 'text'\]"),
        (_generator(), "generator; the signature has the outputs"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(returned: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        outputs_of(returned, [Y, TEXT])


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("int32", [1.0, 2.0]), ("uint8", [1, 2]), ("float32", [True]), ("float16", [1, 2])],
)
def test_values_become_the_signatures_type(dtype: str, values: list[Any]) -> None:
    fitted = output({"name": "y", "dtype": dtype, "shape": [-1, 1]}).fit(np.array(values))
    assert (fitted.dtype, fitted.ravel().tolist()) == (np.dtype(dtype), values)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("int32", [1.5]), ("int64", [np.nan]), ("uint8", [-1]), ("float32", [b"a"]), ("bool", [2])],
)
def test_values_that_would_become_others_are_refused(dtype: str, values: list[Any]) -> None:
    told = output({"name": "y", "dtype": dtype, "shape": [-1, 1]})
    with pytest.raises(ValueError, match=f"output 'y' holds .* that are not {dtype}"):
        told.fit(np.array(values, object) if values == [b"a"] else np.array(values))
