"""Monitors survive the way to a message, and to a document of the database, and back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.monitoring.adapters.documents import monitor_document, monitor_of
from services.monitoring.convert import messages
from services.monitoring.domain.metrics import METRICS
from services.monitoring.domain.monitor import (
    AlertRule,
    Baseline,
    Comparison,
    InferenceProfile,
    Monitor,
    ProblemType,
    SnapshotProfile,
    TimeSeriesProfile,
)

names = st.text(min_size=1, max_size=8)
spans = st.timedeltas(timedelta(seconds=1), timedelta(days=9000))
profiles = st.one_of(
    st.just(SnapshotProfile()),
    st.builds(TimeSeriesProfile, names, spans),
    st.builds(
        InferenceProfile,
        st.one_of(st.just(""), names),
        spans,
        st.sampled_from(ProblemType),
        names,
        st.floats(0.001, 1),
    ),
)
rules = st.builds(
    AlertRule,
    names,
    st.sampled_from(sorted(METRICS)),
    st.sampled_from(Comparison),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(names, max_size=3).map(tuple),
    st.integers(1, 1000),
    st.integers(1, 1 << 40),
)
monitors = st.builds(
    Monitor,
    name=names,
    table_full_name=st.just("main.flights.delay_payload"),
    profile=profiles,
    columns=st.lists(names, max_size=3).map(tuple),
    baseline=st.one_of(st.none(), st.builds(Baseline, st.just("a.b.c"), st.integers(1, 1 << 40))),
    slicing_columns=st.lists(names, max_size=3).map(tuple),
    alert_rules=st.lists(rules, max_size=3).map(tuple),
    allowed_lateness=st.timedeltas(timedelta(0), timedelta(days=9000)),
    output_schema=st.just("main.metrics"),
)


@given(monitors)
def test_a_monitor_survives_its_message(monitor: Monitor) -> None:
    assert messages.monitor(messages.monitor_message(monitor)) == monitor


@given(monitors)
def test_a_monitor_survives_its_document(monitor: Monitor) -> None:
    bare = Monitor(monitor.name, monitor.table_full_name, SnapshotProfile())
    assert monitor_of(monitor_document(monitor), bare) == monitor


@given(monitors)
def test_changes_are_read_without_a_profile(monitor: Monitor) -> None:
    message = messages.monitor_message(monitor)
    message.ClearField(message.WhichOneof("profile") or "snapshot")
    assert messages.monitor_changes(message) == replace(monitor, profile=SnapshotProfile())
