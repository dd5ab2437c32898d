"""The manifest of a model version: what is accepted, and what is said about the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from services.inference.domain.signature import Flavor, Role, parse_manifest
from services.inference.errors import InvalidSignature

Manifest = dict[str, Any]


def test_a_manifest_is_read(manifest: Manifest) -> None:
    signature = parse_manifest(json.dumps(manifest).encode())
    assert signature.flavor is Flavor.TORCH_EXPORT
    assert [spec.name for spec in signature.inputs] == ["x", "carrier", "flown_at"]
    assert signature.inputs[1].vocabulary == ("AA", "UA", "DL")
    assert signature.inputs[2].role is Role.METADATA
    assert signature.outputs[0].shape == (-1, 1)
    assert signature.batched


def test_a_tensor_without_a_row_dimension_cannot_be_batched(manifest: Manifest) -> None:
    manifest["outputs"][0]["shape"] = [-1]
    assert not parse_manifest(json.dumps(manifest).encode()).batched


def change(path: str, value: Any) -> Callable[[Manifest], None]:
    def apply(manifest: Manifest) -> None:
        target: Any = manifest
        *parents, last = path.split(".")
        for part in parents:
            target = target[int(part)] if part.isdigit() else target[part]
        target[int(last) if last.isdigit() else last] = value

    return apply


@pytest.mark.parametrize(
    ("field", "apply"),
    [
        ("flavor", change("flavor", "pickle")),
        ("flavor", change("flavor", "mlflow")),
        ("flavor", change("flavor", ["onnx"])),
        ("entry", change("flavor", "torch_module")),
        ("file", change("file", "../model.pt2")),
        ("file", change("file", "folder/model.pt2")),
        ("file", change("file", "..")),
        ("inputs", change("inputs", [])),
        ("inputs[0].name", change("inputs.0.name", "x\n")),
        ("inputs[0].datatype", change("inputs.0.datatype", "FLOAT")),
        ("inputs[0].shape", change("inputs.0.shape", [-1, 0])),
        ("inputs[0].shape", change("inputs.0.shape", [-1, True])),
        ("inputs[0].shape", change("inputs.0.shape", [])),
        ("inputs[0].role", change("inputs.0.role", "LABEL")),
        ("inputs[1].name", change("inputs.1.name", "x")),
        ("inputs[0].vocabulary", change("inputs.0.vocabulary", ["a"])),
        ("inputs[1].vocabulary", change("inputs.1.vocabulary", ["a", "a"])),
        ("inputs[1].vocabulary", change("inputs.1.vocabulary", None)),
        ("inputs[2].vocabulary", change("inputs.2.vocabulary", ["a"])),
        ("outputs[0].datatype", change("outputs.0.datatype", "BYTES")),
        ("outputs[0]", change("outputs.0.role", "METADATA")),
    ],
)
def test_what_is_wrong_is_named(
    manifest: Manifest, field: str, apply: Callable[[Manifest], None]
) -> None:
    apply(manifest)
    with pytest.raises(InvalidSignature) as caught:
        parse_manifest(json.dumps(manifest).encode())
    assert field in [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize("data", [b"", b"[1]", b"\xff", b"null", b"[" * 100_000])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidSignature):
        parse_manifest(data)


def test_only_metadata_is_not_enough(manifest: Manifest) -> None:
    manifest["inputs"] = manifest["inputs"][2:]
    with pytest.raises(InvalidSignature, match="FEATURE"):
        parse_manifest(json.dumps(manifest).encode())


def test_interfaces_are_compared_without_order_and_vocabulary(manifest: Manifest) -> None:
    first = parse_manifest(json.dumps(manifest).encode())
    manifest["inputs"].reverse()
    manifest["inputs"][1]["vocabulary"] = ["B6"]
    assert first.same_interface(parse_manifest(json.dumps(manifest).encode()))
    manifest["inputs"][2]["shape"] = [-1, 5]
    assert not first.same_interface(parse_manifest(json.dumps(manifest).encode()))


@pytest.mark.parametrize(
    ("field", "value"),
    [("entry", "net"), ("entry", "net:"), ("entry", "../net:Net"), ("arguments", [1])],
)
def test_a_module_names_its_class(manifest: Manifest, field: str, value: Any) -> None:
    manifest |= {"flavor": "torch_module", "entry": "nets.net:Net", "arguments": {"width": 2}}
    signature = parse_manifest(json.dumps(manifest).encode())
    assert (signature.entry, signature.arguments) == ("nets.net:Net", '{"width": 2}')
    assert signature.flavor.runs_code
    with pytest.raises(InvalidSignature) as caught:
        parse_manifest(json.dumps({**manifest, field: value}).encode())
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_class_says_how_it_is_called(manifest: Manifest) -> None:
    manifest |= {"flavor": "python", "entry": "tokens:Tokens", "streams": True, "stateful": True}
    del manifest["file"]
    signature = parse_manifest(json.dumps({**manifest, "timeout_seconds": 2.5}).encode())
    assert signature.flavor.runs_code
    assert (signature.streams, signature.stateful, signature.timeout_seconds) == (True, True, 2.5)
    assert signature.file == "model.json"


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("entry", {"entry": "tokens"}),
        ("streams", {"streams": "yes"}),
        ("stateful", {"stateful": 1}),
        ("timeout_seconds", {"timeout_seconds": 0}),
        ("timeout_seconds", {"timeout_seconds": True}),
        ("streams", {"flavor": "torch_export", "streams": True}),
    ],
)
def test_what_a_class_cannot_be_is_named(manifest: Manifest, field: str, changes: Manifest) -> None:
    manifest |= {"flavor": "python", "entry": "tokens:Tokens", **changes}
    with pytest.raises(InvalidSignature) as caught:
        parse_manifest(json.dumps(manifest).encode())
    assert field in [violation.field for violation in caught.value.violations]
