"""What is not loaded from strangers: part by part, on crafted archives."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from typing import Any

import pytest

from services.inference.domain.signature import Flavor
from services.inference.errors import InvalidArchive
from services.inference.runtime.archive import rebuild
from services.inference.runtime.graph import clean_program, clean_weights

TENSOR = {
    "path_name": "weight_0",
    "is_param": True,
    "use_pickle": False,
    "tensor_meta": {"sizes": [{"as_int": 1}]},
}
TREE = '[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]'


def program(**changes: Any) -> dict[str, Any]:
    node = {
        "target": "torch.ops.aten.relu.default",
        "inputs": [],
        "outputs": [],
        "metadata": {"stack_trace": "File /home/x"},
    }
    graph = {"nodes": [node], "inputs": [], "outputs": []}
    module: dict[str, Any] = {
        "graph": graph,
        "module_call_graph": [{"signature": {"in_spec": TREE, "out_spec": TREE}}],
    }
    whole: dict[str, Any] = {"graph_module": module, "guards_code": ["__import__('os')"]}
    for path, value in changes.items():
        target: Any = whole
        *parents, last = path.split("__")
        for part in parents:
            target = target[int(part)] if part.isdigit() else target[part]
        target[last] = value
    return whole


def export_parts(**changes: bytes | None) -> dict[str, bytes]:
    parts: dict[str, bytes | None] = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "models/model.json": json.dumps(program()).encode(),
        "data/weights/model_weights_config.json": json.dumps({"config": {"w": TENSOR}}).encode(),
        "data/weights/weight_0": b"\0\0\0\0",
        "data/constants/model_constants_config.json": b'{"config": {}}',
        "data/sample_inputs/model.pt": pickle.dumps(("a", "sample")),
        **changes,
    }
    return {name: content for name, content in parts.items() if content is not None}


def archive(parts: dict[str, bytes], *, root: str = "model", compression: int = 0) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", compression) as file:
        for name, content in parts.items():
            file.writestr(f"{root}/{name}", content)
    return output.getvalue()


def names(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {entry.filename: file.read(entry) for entry in file.infolist()}


def test_what_is_only_for_people_or_python_is_dropped() -> None:
    cleaned = json.loads(clean_program(json.dumps(program())))
    assert cleaned["guards_code"] == []
    assert cleaned["graph_module"]["graph"]["nodes"][0]["metadata"] == {}
    rebuilt = names(rebuild(Flavor.TORCH_EXPORT, archive(export_parts(**{"extra/x": b"y"}))))
    assert rebuilt["model/data/sample_inputs/model.pt"] == b""
    assert "model/extra/x" not in rebuilt
    assert b"sample" not in b"".join(rebuilt.values())


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.load",
        "torch.hub.load",
        "torch.ops.aten.relu.__class__",
        "torch.ops.aten.relu.default.__globals__",
        "torch.ops.mylib.relu.default",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.__loader__.load_module",
        "#custom.thing",
        "torch.ops.aten.relu.default\n",
        "torch.ops.higher_order.triton_kernel_wrapper_functional",
    ],
)
def test_operators_that_are_not_known_are_refused(target: str) -> None:
    text = json.dumps(program(graph_module__graph__nodes__0__target=target))
    with pytest.raises(InvalidArchive, match="is not served"):
        clean_program(text)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.add.Tensor",
        "torch.ops.aten._softmax.default",
        "torch.ops.aten.__and__.Tensor",
        "torch.ops.higher_order.cond",
        "_operator.getitem",
        "torch.sym_max",
        "math.ceil",
    ],
)
def test_operators_of_models_pass(target: str) -> None:
    clean_program(json.dumps(program(graph_module__graph__nodes__0__target=target)))


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('id')",
        "s0.__class__",
        "lambdify(s0)",
        "sympify('1')",
        "9**9**9",
        "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
        "Symbol('s0', positive=True).func",
        "Symbol('__import__', integer=True)",
        "[s0 for s0 in ()]",
        "s" * 1001,
        "s0 if s0 else s0",
    ],
)
def test_expressions_that_could_do_more_than_count_are_refused(expression: str) -> None:
    text = json.dumps(program(graph_module__graph__size={"expr_str": expression}))
    with pytest.raises(InvalidArchive, match="shape expression"):
        clean_program(text)


@pytest.mark.parametrize(
    "expression",
    [
        "s77",
        "2*s0 + 1",
        "Symbol('s20', positive=True, integer=True)",
        "Mul(Integer(2), Symbol('s20', positive=True, integer=True))",
        "FloorDiv(s0, 2)",
        "Max(1, u0)",
        "s0**2",
    ],
)
def test_expressions_of_shapes_pass(expression: str) -> None:
    clean_program(json.dumps(program(graph_module__graph__size={"expr_str": expression})))


@pytest.mark.parametrize(
    "spec",
    [
        '[1, {"type": "os.system", "context": "null", "children_spec": []}]',
        '[1, {"type": "builtins.list", "context": {"__enum__": true}, "children_spec": []}]',
        '[1, {"type": "builtins.list", "context": "null"}]',
        "[1]",
        "{",
    ],
)
def test_trees_of_other_types_are_refused(spec: str) -> None:
    module = program()
    module["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec
    with pytest.raises(InvalidArchive):
        clean_program(json.dumps(module))


@pytest.mark.parametrize("key", ["as_custom_obj", "custom_obj_values", "opaque_obj"])
def test_native_objects_are_refused(key: str) -> None:
    with pytest.raises(InvalidArchive, match="objects"):
        clean_program(json.dumps(program(**{f"graph_module__graph__{key}": {"name": "x"}})))


@pytest.mark.parametrize(
    "entry",
    [
        {**TENSOR, "use_pickle": True},
        {**TENSOR, "use_pickle": None},
        {**TENSOR, "path_name": "../../etc/passwd"},
        {**TENSOR, "path_name": "custom_obj_0"},
        {**TENSOR, "path_name": "opaque_obj_0"},
        {**TENSOR, "tensor_meta": None},
        {**TENSOR, "tensor_meta": {"sizes": [{"as_expr": {"expr_str": "os.system"}}]}},
        "weight_0",
    ],
)
def test_pickled_weights_are_refused(entry: Any) -> None:
    with pytest.raises(InvalidArchive):
        clean_weights(json.dumps({"config": {"w": entry}}), "weight_")


@pytest.mark.parametrize(
    "changes",
    [
        {"data/aotinductor/model/model.so": b"\x7fELF"},
        {"data/weights/model.pt": pickle.dumps({})},
        {"data/constants/opaque_obj_0": pickle.dumps({})},
        {"data/../evil": b""},
        {"models/other.json": b"{}"},
        {"models/model.json": None},
        {"models/model.json": b"[]"},
        {"models/model.json": b"\xff"},
        {"archive_version": None},
    ],
)
def test_parts_that_do_not_belong_are_refused(changes: dict[str, bytes | None]) -> None:
    with pytest.raises(InvalidArchive):
        rebuild(Flavor.TORCH_EXPORT, archive(export_parts(**changes)))


SCRIPT = {
    "data.pkl": b"x",
    "constants.pkl": b"x",
    "version": b"3",
    "code/__torch__.py": b"def forward(self, x: Tensor) -> Tensor:\n  return torch.relu(x)\n",
}


def test_torchscript_of_known_operators_passes() -> None:
    data = archive({**SCRIPT, "code/__torch__.py.debug_pkl": pickle.dumps(1)})
    assert set(names(rebuild(Flavor.TORCHSCRIPT, data))) == {f"model/{name}" for name in SCRIPT}


@pytest.mark.parametrize(
    "line",
    [
        "torch.from_file('/etc/passwd')",
        "torch.save(x, '/tmp/x')",
        "ops.mylib.run(x)",
        "__torch__.torch.classes.mylib.Shell",
        "^PythonOp()(x)",
    ],
)
def test_torchscript_that_reaches_outside_is_refused(line: str) -> None:
    with pytest.raises(InvalidArchive, match="is not served"):
        rebuild(Flavor.TORCHSCRIPT, archive({**SCRIPT, "code/__torch__.py": line.encode()}))


def test_what_is_no_archive_is_refused() -> None:
    for data in (b"", b"PK", pickle.dumps({"a": 1})):
        with pytest.raises(InvalidArchive):
            rebuild(Flavor.TORCH_EXPORT, data)


def test_doubled_parts_and_roots_are_refused() -> None:
    one = archive(export_parts())
    two = io.BytesIO(one)
    with zipfile.ZipFile(two, "a") as file:
        file.writestr("other/models/model.json", b"{}")
    with pytest.raises(InvalidArchive):
        rebuild(Flavor.TORCH_EXPORT, two.getvalue())


def test_a_bomb_is_not_unpacked() -> None:
    data = archive({**SCRIPT, "data/0": b"\0" * (64 << 20)}, compression=zipfile.ZIP_DEFLATED)
    assert len(data) < 1 << 20
    with pytest.raises(InvalidArchive, match="larger"):
        rebuild(Flavor.TORCHSCRIPT, data)
