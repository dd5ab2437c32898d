from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.quickstart.flights import KEY, LABEL, NUMBERS, TIME, between, load_flights, spread
from tessera.quickstart.model import DelayModel, roc_auc
from tessera.quickstart.plan import REPLAY_END, REPLAY_START, WINDOW, Plan, windows


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    return load_flights()


def test_every_departed_flight_is_there_once_and_in_order(flights: pa.Table) -> None:
    assert flights.num_rows == 336_776 - 8_255
    assert len(set(flights[KEY].to_pylist())) == flights.num_rows
    times = flights[TIME].cast(pa.int64()).to_numpy()
    assert (np.diff(times) >= 0).all()
    assert set(np.unique(flights[LABEL].to_numpy())) == {0.0, 1.0}


def test_weather_that_is_unknown_is_not_a_number(flights: pa.Table) -> None:
    pressure = flights["pressure_hpa"].to_numpy()
    assert 0 < np.isnan(pressure).sum() < flights.num_rows / 5
    assert all(flights[name].null_count == 0 for name in NUMBERS)


def test_spread_keeps_order_and_reaches_both_ends(flights: pa.Table) -> None:
    chosen = spread(flights, 1000)
    assert chosen.num_rows == 1000
    assert chosen[KEY][0] == flights[KEY][0]
    assert chosen[KEY][-1] == flights[KEY][-1]
    assert len(set(chosen[KEY].to_pylist())) == 1000


def test_windows_cover_the_replay_without_gap(flights: pa.Table) -> None:
    cuts = windows()
    assert cuts[0][0] == REPLAY_START
    assert cuts[-1][1] == REPLAY_END
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(cuts))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert all((start - epoch) % WINDOW == timedelta(0) for start, _ in cuts[1:])
    parts = sum(between(flights, start, end).num_rows for start, end in cuts)
    assert parts == between(flights, REPLAY_START, REPLAY_END).num_rows


def test_runs_share_no_name() -> None:
    first, second = Plan(1), Plan(2)
    names = ("schema", "departures", "baseline", "model", "endpoint", "monitor", "trigger")
    assert all(getattr(first, name) != getattr(second, name) for name in names)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=60).filter(
        lambda pairs: {label for _, label in pairs} == {0, 1}
    )
)
def test_roc_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, int]]) -> None:
    positives = [score for score, label in pairs if label]
    negatives = [score for score, label in pairs if not label]
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    scores = torch.tensor([float(score) for score, _ in pairs])
    labels = torch.tensor([float(label) for _, label in pairs])
    assert roc_auc(scores, labels) == pytest.approx(wins / (len(positives) * len(negatives)))


def test_roc_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(roc_auc(torch.tensor([0.1, 0.2]), torch.tensor([1.0, 1.0])))


def test_the_model_answers_unknown_categories_and_missing_numbers() -> None:
    model = DelayModel([2, 3], [0.0], [1.0], hidden=4).eval()
    unknown = (torch.tensor([[2]]), torch.tensor([[3]]), torch.tensor([[float("nan")]]))
    with torch.no_grad():
        probability = model(*unknown)
    assert probability.shape == (1, 1)
    assert 0 < probability.item() < 1
