"""Validation: every rule on its own, against an oracle, and in one message."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from tessera_kit.names import is_name
from tessera_kit.rpc.validation import InvalidRequest, validate, violations_of
from tests.kit_echo import message

Rules, Tree, Plain, Echo = (message(name) for name in ("Rules", "Tree", "Plain", "Echo"))
texts = st.text(max_size=8) | st.text("ab-_.1\n\0", max_size=8)
doubles = st.floats() | st.sampled_from([-1.0, 1.0, 0.0, math.nan, math.inf])


def good(**changes: Any) -> Message:
    """A message that breaks no rule, with some fields changed."""
    values = {
        "required": "x",
        "lengths": "abc",
        "data": b"1",
        "color": 1,
        "tags": ["a"],
        "must": 0,
        "tree": Tree(label="root"),
    }
    return Rules(**{**values, **changes})


def fields_of(broken: Message) -> list[str]:
    return [violation.field for violation in violations_of(broken)]


def test_a_good_message_passes() -> None:
    validate(good())


def no_nul(check: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: "\0" not in text and check(text)


ORACLES: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], bool]]] = {
    "required": (texts, no_nul(bool)),
    "lengths": (texts, no_nul(lambda text: 2 <= len(text) <= 5)),
    "pattern": (texts, no_nul(lambda text: not text or bool(re.fullmatch("[a-z]+", text)))),
    "name": (texts, no_nul(lambda text: not text or is_name(text))),
    "full_name": (
        texts,
        no_nul(
            lambda text: not text or (text.count(".") == 2 and all(map(is_name, text.split("."))))
        ),
    ),
    "wide": (texts, no_nul(lambda text: len(text.encode()) <= 4)),
    "data": (st.binary(max_size=6), lambda data: 1 <= len(data) <= 4),
    "closed": (doubles, lambda number: -1 <= number <= 1),
    "open": (doubles, lambda number: -1 < number < 1),
    "finite": (doubles, math.isfinite),
    "count": (st.integers(-5, 5), lambda number: number >= 0),
    "color": (st.integers(-1, 6), lambda number: number in (1, 5)),
    "present": (
        st.none() | texts,
        lambda text: text is None or no_nul(lambda t: len(t) >= 3)(text),
    ),
    "must": (st.none() | st.integers(-1, 1), lambda number: number is not None),
}


@pytest.mark.parametrize("field", ORACLES)
@given(data=st.data())
def test_single_values_agree_with_an_oracle(field: str, data: st.DataObject) -> None:
    strategy, fits = ORACLES[field]
    value = data.draw(strategy)
    built = good(**{field: value})
    if fits(value):
        validate(built)
        return
    with pytest.raises(InvalidRequest) as caught:
        validate(built)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert caught.value.message.startswith(field)


@given(st.lists(texts, max_size=5))
def test_lists(tags: list[str]) -> None:
    wrong_items = [
        f"tags[{index}]" for index, tag in enumerate(tags) if len(tag) > 4 or "\0" in tag
    ]
    wrong_list = ["tags"] if not 1 <= len(tags) <= 3 or len(set(tags)) != len(tags) else []
    assert fields_of(good(tags=tags)) == wrong_list + wrong_items


@given(st.lists(doubles, max_size=6))
def test_numbers_in_lists(points: list[float]) -> None:
    expected = [f"points[{i}]" for i, point in enumerate(points) if not math.isfinite(point)]
    assert fields_of(good(points=points)) == expected


@given(st.dictionaries(texts, texts, max_size=4))
def test_maps(labels: dict[str, str]) -> None:
    wrong = {
        f"labels[{key!r}]"
        for key, value in labels.items()
        if not 1 <= len(key) <= 3 or len(value) > 4 or "\0" in key + value
    }
    if len(labels) > 2:
        wrong.add("labels")
    assert set(fields_of(good(labels=labels))) == wrong


def test_nested_paths() -> None:
    broken = good(
        tree=Tree(label="a", children=[Tree(label="b"), Tree(label="B")]),
        forest=[Tree(label="c"), Tree()],
        trees={"k": Tree(label="x", children=[Tree()])},
        weights={"w": math.nan},
    )
    assert set(fields_of(broken)) == {
        "tree.children[1].label",
        "forest[1].label",
        "trees['k'].children[0].label",
        "weights['w']",
    }


def test_absent_message_that_is_required() -> None:
    broken = good()
    broken.ClearField("tree")
    assert fields_of(broken) == ["tree"]


@pytest.mark.parametrize(
    ("field", "values", "ok"),
    [
        ("time", {"seconds": 253_402_300_799, "nanos": 999_999_999}, True),
        ("time", {"seconds": 253_402_300_800}, False),
        ("time", {"nanos": -1}, False),
        ("time", {"nanos": 1_000_000_000}, False),
        ("span", {"seconds": -1, "nanos": -1}, True),
        ("span", {"seconds": 1, "nanos": -1}, False),
        ("span", {"seconds": 315_576_000_001}, False),
    ],
)
def test_well_known_ranges(field: str, values: dict[str, int], ok: bool) -> None:
    built = good()
    for name, value in values.items():
        setattr(getattr(built, field), name, value)
    assert fields_of(built) == ([] if ok else [field])
    if ok:
        getattr(built, field).ToJsonString()


def test_numbers_in_a_struct_are_finite() -> None:
    built = good()
    built.struct.update({"a": [1.0, {"b": 2.0}]})
    validate(built)
    built.struct["a"][1]["b"] = math.nan
    (field,) = fields_of(built)
    assert field.startswith("struct.fields['a']")


def test_a_flood_of_violations_is_cut() -> None:
    assert len(violations_of(Tree(label="a", children=[Tree()] * 1000))) == 100


def test_types_without_rules_cost_nothing_and_pass() -> None:
    deep = Plain(text="\0")
    for _ in range(50):
        deep = Plain(child=deep)
    validate(deep)
    assert violations_of(deep) == []


@given(st.binary(max_size=200))
def test_no_bytes_make_validation_fail_otherwise(data: bytes) -> None:
    try:
        built = Rules.FromString(data)
    except Exception:
        return
    found = violations_of(built)
    try:
        validate(built)
    except InvalidRequest as error:
        assert list(error.violations) == found != []
    else:
        assert found == []
