"""State dicts survive the way through JSON and safetensors bit by bit."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy
import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file, save_file

from tessera import jobs
from tessera.jobs.states import UnsavableState, pack, unpack


def through(state: Any, folder: Path) -> Any:
    """What is read back after it was written as files."""
    tree, tensors = pack(state)
    save_file(tensors, folder / "tensors")
    return unpack(json.loads(json.dumps(tree, allow_nan=False)), load_file(folder / "tensors"))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(one.view(torch.uint8), other.view(torch.uint8))
        )
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    if isinstance(one, dict):
        return (
            type(other) is dict
            and list(one) == list(other)
            and all(same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list | tuple):
        return (
            type(one) is type(other)
            and len(one) == len(other)
            and all(same(*pair) for pair in zip(one, other, strict=True))
        )
    return type(one) is type(other) and bool(one == other)


plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=20)
)
keys = st.one_of(st.text(max_size=5), st.integers(), st.sampled_from(["$tensor", "$dict", "$x"]))
states = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=15,
)


@given(states)
def test_plain_data_comes_back_as_it_was(state: Any) -> None:
    tree, tensors = pack(state)
    assert same(state, unpack(json.loads(json.dumps(tree, allow_nan=False)), tensors))


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool],
    ids=str,
)
def test_tensors_come_back_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    found = through(
        {"a": values, "view": values.T, "row": values[0], "empty": values[:0]}, tmp_path
    )
    assert same(values, found["a"])
    assert torch.equal(values.T, found["view"]) and found["view"].dtype == dtype
    assert torch.equal(values[0], found["row"]) and found["empty"].shape == (0, 3)


def test_an_optimizer_goes_on_exactly(tmp_path: Path) -> None:
    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        module = torch.nn.Linear(3, 2)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1)

    def step(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
        loss = module(torch.ones(4, 3)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    module, optimizer = made()
    step(module, optimizer)
    found = through({"module": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path)
    expected = [step(module, optimizer) for _ in range(3)]
    module, optimizer = made()
    module.load_state_dict(found["module"])
    optimizer.load_state_dict(found["optimizer"])
    assert [step(module, optimizer) for _ in range(3)] == expected


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def drawn() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(torch.rand(1)), numpy.random.rand()]  # noqa: S311

    drawn()
    found = through(jobs.random_state(), tmp_path)
    expected = [drawn(), drawn()]
    jobs.set_random_state(found)
    assert [drawn(), drawn()] == expected


def test_a_snapshot_does_not_follow_its_original() -> None:
    values, array = torch.zeros(3), numpy.zeros(3)
    tree, tensors = pack([values, array])
    values += 1
    array += 1
    found = unpack(tree, tensors)
    assert found[0].sum() == 0 and found[1].sum() == 0


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": [1, object()]}, r"state\['a'\]\[1\] is a object"),
        ({"f": print}, r"state\['f'\] is a builtin_function"),
        ({(1, 2): 3}, "a key of state is a tuple"),
        ({"a": numpy.array(["x"])}, r"state\['a'\] is an array of <U1"),
    ],
)
def test_what_cannot_be_saved_is_named(state: Any, where: str) -> None:
    with pytest.raises(UnsavableState, match=where):
        pack(state)
