"""How much two conditions of traces go together: what is counted, and MLflow's own figures."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tracking.domain.traces.correlation import CorrelationCounts, npmi, smoothed_npmi
from services.tracking.domain.traces.span import trace_id_of
from services.tracking.domain.traces.trace import TraceState
from services.tracking.errors import InvalidFilter
from tests.mlflow_door import Door
from tests.trace_world import ADA, BOB, World, a_span, a_trace, a_world

PATH = "/api/3.0/mlflow/traces/calculate-filter-correlation"


@pytest.fixture(scope="module")
def mlflow_figures() -> ModuleType:
    """MLflow's module of these figures, without the import of all of MLflow."""
    package = importlib.util.find_spec("mlflow")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "store/analytics/trace_correlation.py"
    spec = importlib.util.spec_from_file_location("mlflow_trace_correlation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(*[st.one_of(st.integers(-1, 12), st.integers(0, 10**7)) for _ in range(4)])
def test_figures_are_those_of_mlflow(
    mlflow_figures: ModuleType, total: int, first: int, second: int, both: int
) -> None:
    theirs = mlflow_figures.calculate_npmi_from_counts(both, first, second, total)
    counts = CorrelationCounts(total, first, second, both)
    for ours, expected in (
        (npmi(counts), theirs.npmi),
        (smoothed_npmi(counts), theirs.npmi_smoothed),
    ):
        assert ours == expected or (math.isnan(ours) and math.isnan(expected))


@pytest.fixture
async def world() -> World:
    """Traces 1 to 4: 3 and 4 failed, 2 and 4 are slow, and 2 to 4 have a span of a tool."""
    world = await a_world()
    for number in range(1, 5):
        await world.traces.start(
            ADA,
            a_trace(
                world,
                trace_id_of(f"{number:032x}"),
                state=TraceState.ERROR if number > 2 else TraceState.OK,
                tags={"speed": "fast" if number % 2 else "slow"},
            ),
        )
        kind = {"mlflow.spanType": "TOOL" if number > 1 else "LLM"}
        span = a_span(number, attributes=kind)
        await world.spans.add({world.experiment_id: [span]})
    return world


@pytest.mark.parametrize(
    ("first", "second", "base", "expected"),
    [
        ("status = 'ERROR'", "tag.speed = 'slow'", "", (4, 2, 2, 1)),
        ("status = 'ERROR'", "tag.speed = 'slow'", "status = 'ERROR'", (2, 2, 1, 1)),
        ("status = 'ERROR'", "span.type = 'TOOL'", "", (4, 2, 3, 2)),
        ("span.type = 'LLM'", "span.type = 'TOOL'", "", (4, 1, 3, 0)),
        ("span.type = 'TOOL'", "status = 'OK'", "span.type = 'TOOL'", (3, 3, 1, 1)),
        ("tag.speed RLIKE '^s'", "span.type = 'TOOL'", "", (4, 2, 3, 2)),
        ("tag.speed RLIKE '^s'", "status = 'OK'", "span.type = 'TOOL'", (3, 2, 1, 1)),
        ("status = 'OK'", "name = 'none'", "", (4, 2, 0, 0)),
    ],
)
async def test_traces_are_counted(
    world: World, first: str, second: str, base: str, expected: tuple[int, ...]
) -> None:
    counts = await world.correlation.count(
        ADA, [world.experiment_id], first=first, second=second, base=base
    )
    assert counts == CorrelationCounts(*expected)


async def test_traces_that_may_not_be_read_do_not_count(world: World) -> None:
    asked = {"first": "status = 'OK'", "second": "status = 'ERROR'"}
    counts = await world.correlation.count(BOB, [world.experiment_id], **asked)
    assert counts == CorrelationCounts(0, 0, 0, 0)
    with pytest.raises(InvalidFilter):
        await world.correlation.count(ADA, [world.experiment_id], **{**asked, "second": "what"})


async def test_the_door_spells_out_what_cannot_be_told() -> None:
    door = Door()
    await door.cases.experiments.ensure_default()
    asked = {
        "experiment_ids": ["0"],
        "filter_string1": "status = 'OK'",
        "filter_string2": "status = 'ERROR'",
    }
    assert await door.ok("POST", PATH, asked) == {
        "npmi": "NaN",
        "npmi_smoothed": "NaN",
        "filter1_count": 0,
        "filter2_count": 0,
        "joint_count": 0,
        "total_count": 0,
    }
    for wrong in ({"filter_string1": ""}, {"filter_string2": "status ="}):
        answer = await door.call("POST", PATH, {**asked, **wrong})
        assert answer.error == (400, "INVALID_PARAMETER_VALUE")
