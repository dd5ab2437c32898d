"""Pipelines: how their steps fit together, what is loaded of them, and how tensors pass through."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from services.inference.convert.endpoints import endpoint_message
from services.inference.domain.pipeline import Wire, wire
from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions
from services.inference.domain.signature import parse_manifest
from services.inference.errors import (
    CodeNotAllowed,
    InvalidConfig,
    InvalidSignature,
    ModelNotServable,
)
from services.inference.runtime.programs.fitted import FittedModel
from services.inference.runtime.programs.pipeline_loader import Pipeline, Step
from services.inference.runtime.programs.process import ModelHangs, ProcessFailed
from services.inference.runtime.programs.tensors import Call
from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import NotFound, PermissionDenied
from tests.unit.inference.control import ADA, MODEL, Control, entity

Manifest = dict[str, Any]
WORDS, NET = "main.flights.words", "main.flights.net"


def tensor(name: str, datatype: str = "FP32", shape: Sequence[int] = (-1, 4)) -> Manifest:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def words() -> Manifest:
    return {
        **{"flavor": "python", "entry": "words:Words"},
        "inputs": [tensor("text", "BYTES", [-1, 1])],
        "outputs": [tensor("features"), tensor("count", "INT64", [-1, 1])],
    }


def net() -> Manifest:
    return {
        **{"flavor": "onnx", "file": "net.onnx"},
        "inputs": [tensor("x")],
        "outputs": [tensor("y", shape=[-1, 1])],
    }


def pipeline() -> Manifest:
    return {
        "flavor": "pipeline",
        "inputs": [tensor("sentence", "BYTES", [-1, 1])],
        "outputs": [tensor("score", shape=[-1, 1]), tensor("count", "INT64", [-1, 1])],
        "steps": [
            {"model": WORDS, "version": 1, "inputs": {"text": "sentence"}},
            {
                **{"model": NET, "version": 2},
                **{"inputs": {"x": "features"}, "outputs": {"y": "score"}},
            },
        ],
    }


def wired(whole: Manifest, *steps: Manifest) -> tuple[Wire, ...]:
    signature, *taken = (parse_manifest(json.dumps(one).encode()) for one in (whole, *steps))
    return wire(signature, taken)


def test_tensors_go_by_the_pipelines_names() -> None:
    assert wired(pipeline(), words(), net()) == (
        Wire(("sentence",), ("features", "count")),
        Wire(("features",), ("score",)),
    )


def edit(**changes: Any) -> Callable[[Manifest, Manifest, Manifest], None]:
    """Changes by path, as `steps_1_inputs`; `words_` and `net_` before those of a step's own."""

    def apply(whole: Manifest, first: Manifest, second: Manifest) -> None:
        for path, value in changes.items():
            target: Any = {"words": first, "net": second, "whole": whole}
            *parents, last = path.split("_")
            for part in parents:
                target = target[int(part)] if part.isdigit() else target[part]
            target[int(last) if last.isdigit() else last] = value

    return apply


@pytest.mark.parametrize(
    ("field", "reason", "change"),
    [
        (
            "steps[1].inputs.x",
            "reads 'nowhere', which is no input of the pipeline",
            edit(whole_steps_1_inputs={"x": "nowhere"}),
        ),
        (
            "steps[0].inputs.text",
            "reads 'score', which step 1 writes",
            edit(whole_steps_0_inputs={"text": "score"}),
        ),
        (
            "steps[1].inputs.x",
            "reads 'score', which step 1 writes",
            edit(whole_steps_1_inputs={"x": "score"}),
        ),
        (
            "steps[1].inputs.q",
            r"version 2 of main\.flights\.net has no input 'q'; it has \['x'\]",
            edit(whole_steps_1_inputs={"x": "features", "q": "count"}),
        ),
        ("steps[0].outputs.q", "has no output 'q'", edit(whole_steps_0_outputs={"q": "z"})),
        (
            "steps[1].outputs.y",
            "becomes 'count', which is there already",
            edit(whole_steps_1_outputs={"y": "count"}),
        ),
        (
            "steps[1].inputs.x",
            "is FP32 and is fed INT64",
            edit(whole_steps_1_inputs={"x": "count"}),
        ),
        (
            "steps[1].inputs.x",
            r"has shape \[-1, 5\] and is fed \[-1, 4\]",
            edit(net_inputs_0=tensor("x", shape=[-1, 5])),
        ),
        (
            "outputs[0]",
            r"has shape \[-1, 2\] and is given \[-1, 1\]",
            edit(whole_outputs_0=tensor("score", shape=[-1, 2])),
        ),
        ("outputs[0].name", "'z' is written by no step", edit(whole_outputs_0=tensor("z"))),
        (
            "outputs[0].name",
            "'sentence' is written by no step",
            edit(whole_outputs_0=tensor("sentence", "BYTES", [-1, 1])),
        ),
        (
            "inputs[0].name",
            "'other' is read by no step",
            edit(whole_inputs_0=tensor("other", "BYTES", [-1, 1])),
        ),
        ("steps[0]", "keeps state, which no step may", edit(words_stateful=True)),
        ("streams", "and one does", edit(words_streams=True)),
        ("streams", "and none does", edit(whole_streams=True)),
        (
            "steps[1]",
            "does not take rows together",
            edit(net_inputs_0=tensor("x", shape=[-1, 4]), net_outputs_0=tensor("y", shape=[1, 1])),
        ),
    ],
)
def test_what_does_not_fit_is_named(
    field: str, reason: str, change: Callable[[Manifest, Manifest, Manifest], None]
) -> None:
    manifests = pipeline(), words(), net()
    change(*manifests)
    with pytest.raises(InvalidSignature) as caught:
        wired(*manifests)
    assert any(
        one.field == field and re.search(reason, one.description) for one in caught.value.violations
    ), caught.value.violations


def test_a_pipeline_is_no_step() -> None:
    whole = pipeline()
    del whole["steps"][1]
    with pytest.raises(InvalidSignature, match="is a pipeline itself"):
        wired(whole, pipeline())


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("steps", edit(whole_steps=[])),
        ("steps[0]", edit(whole_steps_0="words")),
        ("steps[0].model", edit(whole_steps_0_model="words")),
        ("steps[0].version", edit(whole_steps_0_version="champion")),
        ("steps[0].inputs", edit(whole_steps_0_inputs=["text"])),
        ("stateful", edit(whole_stateful=True)),
        (
            "inputs[0].vocabulary",
            edit(whole_inputs_0={**tensor("sentence", "BYTES", [-1, 1]), "vocabulary": ["a"]}),
        ),
    ],
)
def test_what_is_no_pipeline_is_named(
    field: str, change: Callable[[Manifest, Manifest, Manifest], None]
) -> None:
    whole = pipeline()
    change(whole, {}, {})
    with pytest.raises(InvalidSignature) as caught:
        parse_manifest(json.dumps(whole).encode())
    assert field in [violation.field for violation in caught.value.violations]


@pytest.fixture
async def control(manifest: dict[str, Any]) -> AsyncIterator[Control]:
    control = Control(manifest)
    for model in (WORDS, NET):
        control.authority.grant(
            "ada",
            [securable_pb2.PRIVILEGE_EXECUTE],
            securable_pb2.SECURABLE_TYPE_MODEL,
            model,
        )
    control.models.put(MODEL, 3, {"model.json": json.dumps(pipeline()).encode()})
    code = {"code/words.py": b"class Words: ..."}
    control.models.put(WORDS, 1, {"model.json": json.dumps(words()).encode(), **code})
    graph = {"net.onnx": b"graph", "notes.md": b""}
    control.models.put(NET, 2, {"model.json": json.dumps(net()).encode(), **graph})
    yield control
    await control.deployer.idle()


async def test_a_pipeline_is_loaded_whole_as_one_model(control: Control) -> None:
    control.secrets.put("db", "password", "s3cret", "ada")
    variables = {"PASSWORD": "{{secrets/db/password}}"}
    asked = [entity(3, allow_code=True, environment=variables)]
    endpoint = await control.created(entities=asked)
    assert endpoint.config is not None
    (served,) = endpoint.config.entities
    assert await control.runtime.loaded() == {served.runtime_name}
    files = control.runtime.files(served.runtime_name)
    assert {path for path in files if path.startswith("1/steps/")} == {
        *("1/steps/0/signature.json", "1/steps/0/model.zip", "1/steps/0/environment.json"),
        *("1/steps/1/signature.json", "1/steps/1/model.onnx"),
    }
    assert json.loads(files["1/steps/0/environment.json"]) == {"PASSWORD": "s3cret"}
    told = json.loads(files["1/signature.json"])
    assert told["steps"][1] == {
        "title": f"version 2 of {NET}",
        **{"reads": ["features"], "writes": ["score"]},
    }
    message = endpoint_message(endpoint).config.served_entities[0]
    assert [(one.model_name, one.model_version) for one in message.steps] == [(WORDS, 1), (NET, 2)]
    edges = [
        edge.source.name
        for event in control.endpoints.told
        if event.type.endswith("LineageObserved")
        for edge in event.data.edges
    ]
    assert edges[:3] == [f"{MODEL}/3", f"{WORDS}/1", f"{NET}/2"]


async def test_a_pipeline_is_swapped_rolled_back_and_let_go_whole(control: Control) -> None:
    await control.created(entities=[entity(3, allow_code=True)])
    second = pipeline()
    second["steps"][1]["version"] = 3
    control.models.put(MODEL, 4, {"model.json": json.dumps(second).encode()})
    control.models.put(NET, 3, {"model.json": json.dumps(net()).encode(), "net.onnx": b"other"})
    await control.handlers.update_config(ADA, "delays", [entity(4, allow_code=True)], "")
    await control.deployer.idle()
    (name,) = await control.runtime.loaded()
    assert control.runtime.files(name)["1/steps/1/model.onnx"] == b"other"
    await control.handlers.rollback(ADA, "delays", 1, "")
    await control.deployer.idle()
    (name,) = await control.runtime.loaded()
    assert control.runtime.files(name)["1/steps/1/model.onnx"] == b"graph"
    await control.handlers.delete(ADA, "delays", "")
    await control.deployer.idle()
    assert await control.runtime.loaded() == frozenset()


async def test_what_a_pipeline_needs_is_asked_of_its_steps(control: Control) -> None:
    with pytest.raises(CodeNotAllowed, match="flavor python brings code"):
        await control.create(entities=[entity(3)])
    stateful = RuntimeOptions(sequences=SequenceOptions())
    with pytest.raises(InvalidConfig, match="keeps state"):
        await control.create(entities=[entity(3, allow_code=True, runtime=stateful)])
    other = pipeline()
    other["steps"][1]["model"] = "main.flights.secret"
    control.models.put(MODEL, 4, {"model.json": json.dumps(other).encode()})
    with pytest.raises(PermissionDenied):
        await control.create(entities=[entity(4, allow_code=True)])
    other["steps"][1] |= {"model": NET, "version": 9}
    control.models.put(MODEL, 5, {"model.json": json.dumps(other).encode()})
    with pytest.raises(NotFound):
        await control.create(entities=[entity(5, allow_code=True)])
    control.models.put(NET, 9, {"model.json": json.dumps(net()).encode()}, ready=False)
    with pytest.raises(ModelNotServable, match="a step of the pipeline, is not ready"):
        await control.create(entities=[entity(5, allow_code=True)])
    assert await control.endpoints.all() == []


class Twice:
    def __init__(self, streams: bool = False) -> None:
        self.streams = streams
        self.is_closed = False

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        if arrays[0][0, 0] == 13:
            raise ValueError("thirteen\nand more")
        if arrays[0][0, 0] == 7:
            raise ModelHangs("it gave no answer")
        return [arrays[0] * 2]

    def stream(self, arrays: Sequence[Any], call: Call) -> Any:
        for number in range(int(arrays[0][0, 0])):
            yield self([arrays[0] * 0 + number])

    def probe(self) -> list[Any]:
        return []

    def close(self) -> None:
        self.is_closed = True


def step(title: str, reads: str, writes: str, streams: bool = False) -> Step:
    one = {"dtype": "float32", "shape": [-1, 1]}
    signature = {
        **{"batched": True, "streams": streams, "stateful": False},
        **{"inputs": [{"name": "x", **one}], "outputs": [{"name": "y", **one}]},
    }
    return Step(title, FittedModel(signature, Twice(streams)), [reads], [writes])


def ones(value: float) -> list[Any]:
    return [np.full((2, 1), value, np.float32)]


def test_each_step_reads_what_others_wrote() -> None:
    steps = [step("first", "a", "b"), step("second", "b", "c"), step("third", "a", "d")]
    model = Pipeline(steps, ["a"], ["c", "d"])
    assert [array.tolist() for array in model(ones(3))] == [[[12], [12]], [[6], [6]]]
    with pytest.raises(ProcessFailed, match=r"^second: ValueError: thirteen$"):
        model(ones(6.5))
    with pytest.raises(ModelHangs, match=r"^first: it gave no answer$"):
        model(ones(7))


def test_responses_of_a_step_that_streams_go_through_those_after_it() -> None:
    steps = [step("a", "a", "b"), step("b", "b", "c", streams=True), step("c", "c", "d")]
    model = Pipeline(steps, ["a"], ["d"])
    found = [float(one[0][0, 0]) for one in model.stream(ones(1.5), Call())]
    assert found == [0, 4, 8]
    with pytest.raises(ProcessFailed, match=r"^a: ValueError: thirteen$"):
        list(model.stream(ones(13), Call()))
    with pytest.raises(ModelHangs, match=r"^b: it gave no answer"):
        list(model.stream(ones(4), Call()))
    model.close()
    assert all(one.model._model.is_closed for one in steps)
