"""Positions behind which a page starts."""

from __future__ import annotations

import pytest

from services.tracking.domain.search.paging import Position, read_position, write_position
from services.tracking.domain.search.parser import parse_order_by
from services.tracking.domain.search.syntax import RUNS


@pytest.mark.parametrize(
    ("order", "value"),
    [("start_time", 0), ("params.p", ""), ("metrics.m", 0.0), ("run_name", "0")],
)
def test_values_that_look_like_nothing_are_kept(order: str, value: float | str) -> None:
    keys = parse_order_by([order], RUNS)
    position = Position(((0, value),), 7, "run")
    assert read_position(write_position(position), keys) == position
