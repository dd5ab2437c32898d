"""What an endpoint sets of the runtime: checked, stored, told, and in Triton's configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2

from services.inference.adapters.bundles import FileBundles
from services.inference.adapters.sql.rows import config_row, config_value
from services.inference.convert.endpoints import config_message, entity_requests
from services.inference.convert.runtime import runtime_message, runtime_options
from services.inference.domain.endpoint import Device, Endpoint, InstanceGroup
from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions, misfits
from services.inference.domain.signature import Signature, parse_manifest
from services.inference.errors import InvalidConfig, InvalidExample, InvalidInference
from services.inference.gateway.routing import RouteTable
from services.inference.gateway.sequences import own_sequence, sequence_in
from services.inference.gateway.validation import RequestRules
from services.inference.runtime.bundle import ModelBundle, needed
from services.inference.runtime.triton_config import triton_config
from services.inference.runtime.warm_up import EXAMPLE, make_warm_up
from tessera.inference.v1 import endpoint_pb2

Make = Callable[..., Any]

FULL = RuntimeOptions(
    max_batch_size=64,
    preferred_batch_sizes=(16, 32),
    max_queue_delay_us=2500,
    response_cache=True,
    warm_up_count=3,
)
KEEPING = RuntimeOptions(max_batch_size=8, sequences=SequenceOptions(30_000_000, 12))
CPU = (InstanceGroup(Device.CPU, 2),)


def held(rules: RequestRules, request: Any) -> None:
    rules.check(request, request.SerializeToString(), request.raw_input_contents)


def parsed(config: dict[str, Any]) -> Any:
    """As Triton reads it: a field that it does not know is an error."""
    return json_format.Parse(json.dumps(config), model_config_pb2.ModelConfig())


def test_what_is_not_set_follows_from_the_signature(signature: Signature) -> None:
    config = parsed(triton_config("m", signature, CPU, RuntimeOptions()))
    assert (config.name, config.backend, config.max_batch_size) == ("m", "python", 8192)
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    gathering = config.dynamic_batching
    assert (list(gathering.preferred_batch_size), gathering.max_queue_delay_microseconds) == ([], 0)
    # A policy of the queue would keep Triton from taking requests ahead.
    assert not gathering.HasField("default_queue_policy")
    assert not config.response_cache.enable
    assert not config.model_transaction_policy.decoupled
    assert list(config.model_warmup) == []
    assert [(group.count, group.kind) for group in config.instance_group] == [(2, 2)]


def test_what_is_set_is_in_the_configuration(signature: Signature) -> None:
    warm_up = make_warm_up(signature, 3, None)
    config = parsed(triton_config("m", signature, CPU, FULL, warm_up))
    assert config.max_batch_size == 64
    assert list(config.dynamic_batching.preferred_batch_size) == [16, 32]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2500
    assert config.response_cache.enable
    (sample,) = config.model_warmup
    assert (sample.count, sample.batch_size, sorted(sample.inputs)) == (3, 1, ["carrier", "x"])
    assert list(sample.inputs["x"].dims) == [4]


def test_models_that_keep_state_get_sequences(signature: Signature) -> None:
    config = parsed(triton_config("m", signature, CPU, KEEPING))
    assert config.WhichOneof("scheduling_choice") == "sequence_batching"
    sequences = config.sequence_batching
    assert sequences.max_sequence_idle_microseconds == 30_000_000
    assert sequences.oldest.max_candidate_sequences == 12


def test_models_that_stream_are_decoupled(signature: Signature) -> None:
    config = parsed(triton_config("m", replace(signature, streams=True), CPU, RuntimeOptions()))
    assert config.model_transaction_policy.decoupled


def test_a_model_of_fixed_shapes_gathers_nothing(manifest: dict[str, Any]) -> None:
    manifest["inputs"] = [{"name": "x", "datatype": "FP32", "shape": [4]}]
    manifest["outputs"] = [{"name": "y", "datatype": "FP32", "shape": [1]}]
    fixed = parse_manifest(json.dumps(manifest).encode())
    config = parsed(triton_config("m", fixed, CPU, RuntimeOptions()))
    assert (config.max_batch_size, config.WhichOneof("scheduling_choice")) == (0, None)
    fields = [one.field for one in misfits("r", FULL, fixed)]
    assert fields == ["r.max_batch_size", "r.preferred_batch_sizes", "r.max_queue_delay"]


@pytest.mark.parametrize(
    ("options", "streams", "field"),
    [
        (RuntimeOptions(max_batch_size=8, preferred_batch_sizes=(9,)), False, "preferred_batch_s"),
        (RuntimeOptions(response_cache=True), True, "response_cache"),
        (RuntimeOptions(response_cache=True, sequences=SequenceOptions()), False, "response_cache"),
    ],
)
def test_what_does_not_fit_together_is_named(
    signature: Signature, options: RuntimeOptions, streams: bool, field: str
) -> None:
    (wrong,) = misfits("path", options, replace(signature, streams=streams))
    assert wrong.field.startswith(f"path.{field}")


@pytest.mark.parametrize("options", [RuntimeOptions(), FULL, KEEPING])
def test_options_come_back_as_they_were_told(
    make_endpoint: Callable[..., Endpoint], options: RuntimeOptions
) -> None:
    assert runtime_options(runtime_message(options), "r") == options
    config = make_endpoint().config
    assert config is not None
    (entity,) = config.entities
    config = replace(config, entities=(replace(entity, runtime=options),))
    assert config_value(config_row("id", config)) == config
    (asked,) = entity_requests(config_message(config))
    assert asked.runtime == options == config.entities[0].asked_again().runtime


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("max_queue_delay", 11),
        ("max_queue_delay", -1),
        ("sequences.max_idle", 0),
        ("sequences.max_idle", 86_401),
        ("sequences.max_idle", 10**11),
    ],
)
def test_times_out_of_bounds_are_refused(field: str, seconds: int) -> None:
    told = endpoint_pb2.RuntimeOptions()
    duration: Any = told
    for part in field.split("."):
        duration = getattr(duration, part)
    duration.SetInParent()
    duration.seconds = seconds
    with pytest.raises(InvalidConfig) as caught:
        runtime_options(told, "r")
    assert caught.value.violations[0].field == f"r.{field}"


# Warm-up.


def test_the_example_is_what_the_instances_answer_first(signature: Signature) -> None:
    example = {"inputs": {"x": [[1, 2, 3, 4], [5, 6, 7, 8]], "carrier": ["UA", "é"], "more": [1]}}
    warm_up = make_warm_up(signature, 5, json.dumps(example).encode())
    assert [(one["batch_size"], one["count"]) for one in warm_up.samples] == [(1, 5)] * 2
    rows = [
        {
            name: warm_up.files[f"warmup/{told['input_data_file']}"]
            for name, told in one["inputs"].items()
        }
        for one in warm_up.samples
    ]
    x = np.arange(1, 9, dtype=np.float32).tobytes()
    assert [row["x"] for row in rows] == [x[:16], x[16:]]
    assert [row["carrier"] for row in rows] == [b"\x02\0\0\0UA", b"\x02\0\0\0\xc3\xa9"]
    assert needed(signature, ["model.pt2", EXAMPLE, "notes.md"]) == ["model.pt2", EXAMPLE]


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (b"\xff", "not JSON"),
        (b"[1]", "must be"),
        (b'{"inputs": {"x": [[1, 2, 3, 4]]}}', "has no input 'carrier'"),
        (b'{"inputs": {"x": [[1, 2]], "carrier": ["a"]}}', "has shape"),
        (b'{"inputs": {"x": [["a", 2, 3, 4]], "carrier": ["a"]}}', "is not FP32"),
        (b'{"inputs": {"x": [[1, 2, 3, 4]], "carrier": [1]}}', "no text"),
        (b'{"inputs": {"x": [[1, 2, 3, 4]], "carrier": ["a", "b"]}}', "same number of rows"),
        (b'{"inputs": {"x": [], "carrier": []}}', "has shape"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(
    signature: Signature, example: bytes, words: str
) -> None:
    with pytest.raises(InvalidExample, match=words):
        make_warm_up(signature, 1, example)


async def test_bundles_keep_files_outside_of_the_version(tmp_path: Path) -> None:
    bundle = ModelBundle("{}", {"1/model.py": b"a", "warmup/input-0": b"b"})
    bundles = FileBundles(tmp_path / "bundles")
    await bundles.put("m", bundle)
    assert await bundles.get("m") == bundle


# What the gateway makes of them.


def test_rows_are_bounded_by_the_smallest_entity(
    make_endpoint: Callable[..., Endpoint], make_request: Make
) -> None:
    endpoint = make_endpoint(shares=(50, 50))
    assert endpoint.config is not None
    first, second = endpoint.config.entities
    entities = (first, replace(second, runtime=FULL))
    routes = RouteTable()
    routes.put(replace(endpoint, config=replace(endpoint.config, entities=entities)))
    route = routes.find(endpoint.name)
    assert route.max_rows == 64
    held(route.rules, make_request(rows=64))
    with pytest.raises(InvalidInference, match="at most 64"):
        held(route.rules, make_request(rows=65))


def of_sequence(request: Any, sequence: Any) -> Any:
    field = "int64_param" if isinstance(sequence, int) else "string_param"
    setattr(request.parameters["sequence_id"], field, sequence)
    request.parameters["sequence_start"].bool_param = True
    return request


@pytest.mark.parametrize("sequence", [7, "a"])
def test_requests_name_their_sequence_where_there_are_some(
    signature: Signature, make_request: Make, sequence: Any
) -> None:
    request = of_sequence(make_request(), sequence)
    held(RequestRules(signature, 10, sequences=True), request)
    with pytest.raises(InvalidInference, match="is not served"):
        held(RequestRules(signature, 10), request)
    assert sequence_in(request.SerializeToString()) == f"flights/{sequence}"


@pytest.mark.parametrize("sequence", [0, "", "x" * 129])
def test_sequences_without_a_name_are_refused(
    signature: Signature, make_request: Make, sequence: Any
) -> None:
    with pytest.raises(InvalidInference, match="sequence_id"):
        held(RequestRules(signature, 10, sequences=True), of_sequence(make_request(), sequence))
    with pytest.raises(InvalidInference, match=r"sequence_id.*is missing"):
        held(RequestRules(signature, 10, sequences=True), make_request())


def test_nobody_meets_another_callers_sequence(
    make_endpoint: Callable[..., Endpoint], make_request: Make
) -> None:
    routes = RouteTable()
    routes.put(make_endpoint())
    (served,) = routes.find("flights").entities
    request = of_sequence(make_request(), 7)
    told = set()
    for principal in ("alice", "bob", "alice"):
        name = own_sequence(principal, request)
        message = service_pb2.ModelInferRequest.FromString(
            request.SerializeToString() + served.suffix(name)
        )
        assert message.parameters["sequence_id"].string_param == name
        assert message.parameters["sequence_start"].bool_param
        told.add(name)
    assert len(told) == 2
    assert sequence_in(b"sequence_id\xff\xff") == ""
