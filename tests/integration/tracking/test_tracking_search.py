"""Searching through the gRPC door."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2 as api
from tessera_kit.rpc.identity import Principal

from .calls import metric, new_experiment, new_run, refused
from .conftest import Service


async def found(service: Service, **fields: Any) -> list[str]:
    """The names of all runs that a search finds, page by page."""
    fields = {"experiment_ids": ["0"], **fields}
    names: list[str] = []
    request = api.SearchRunsRequest(**fields)
    while True:
        page = await service.ada.SearchRuns(request)
        assert len(page.runs) <= (request.page_size or 100)
        names += [run.name for run in page.runs]
        if not page.next_page_token:
            return names
        request.page_token = page.next_page_token


@pytest.fixture
async def runs(service: Service) -> list[pb.Run]:
    made = []
    for number in range(7):
        run = await new_run(service, name=f"run-{number}")
        metrics = [metric("auc", float("nan") if number == 5 else number % 3)]
        await service.ada.LogBatch(
            api.LogBatchRequest(
                run_id=run.run_id,
                metrics=metrics if number != 6 else [],
                params=[pb.Param(key="text", value="ä" * 3000 + str(number))],
            )
        )
        made.append(run)
    return made


async def test_the_newest_come_first_in_pages(service: Service, runs: list[pb.Run]) -> None:
    expected = [run.name for run in reversed(runs)]
    assert await found(service) == expected
    assert await found(service, page_size=3) == expected


async def test_order_by_a_metric_puts_nan_and_nothing_last(
    service: Service, runs: list[pb.Run]
) -> None:
    ascending = [f"run-{n}" for n in (3, 0, 4, 1, 2, 5, 6)]
    descending = [f"run-{n}" for n in (2, 4, 1, 3, 0, 5, 6)]
    for size in (1, 2, 100):
        assert await found(service, order_by=["metrics.auc"], page_size=size) == ascending
        assert await found(service, order_by=["metrics.auc DESC"], page_size=size) == descending


async def test_pages_hold_over_texts_too_long_for_a_token(
    service: Service, runs: list[pb.Run]
) -> None:
    expected = [f"run-{n}" for n in range(7)]
    assert await found(service, order_by=["params.text"], page_size=2) == expected


async def test_a_run_written_between_pages_does_not_shift_them(
    service: Service, runs: list[pb.Run]
) -> None:
    request = api.SearchRunsRequest(experiment_ids=["0"], page_size=3)
    first = await service.ada.SearchRuns(request)
    await new_run(service, name="late")
    request.page_token = first.next_page_token
    second = await service.ada.SearchRuns(request)
    assert [run.name for run in second.runs] == ["run-3", "run-2", "run-1"]


async def test_a_token_is_good_for_its_own_search_only(
    service: Service, runs: list[pb.Run]
) -> None:
    request = api.SearchRunsRequest(experiment_ids=["0"], page_size=3)
    request.page_token = (await service.ada.SearchRuns(request)).next_page_token
    request.filter = "status = 'RUNNING'"
    info = await refused(service.ada.SearchRuns(request), grpc.StatusCode.INVALID_ARGUMENT)
    assert info.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize(
    ("fields", "words", "position"),
    [
        ({"filter": "metrics.auc > 'x'"}, "expected numeric value type", "15"),
        ({"filter": "params.a = '1' OR params.b = '2'"}, "OR is not supported", "16"),
        ({"filter": "status = 'open"}, "not closed", "10"),
        ({"filter": "nonsense = 'a'"}, "invalid attribute key 'nonsense'", "1"),
        ({"order_by": ["status", "metrics.a SIDEWAYS"]}, "order_by[1]", "11"),
    ],
)
async def test_what_does_not_parse_says_where(
    service: Service, fields: dict[str, Any], words: str, position: str
) -> None:
    request = api.SearchRunsRequest(experiment_ids=["0"], **fields)
    info = await refused(service.ada.SearchRuns(request), grpc.StatusCode.INVALID_ARGUMENT, words)
    assert info.metadata["position"] == position


async def test_experiments_are_searched_too(service: Service) -> None:
    for name in ("flights a", "flights b", "other"):
        await new_experiment(service, name, tags={"team": name[-1]})
    request = api.SearchExperimentsRequest(
        filter="name LIKE 'flight%' AND tags.team != 'x'", order_by=["name DESC"]
    )
    response = await service.ada.SearchExperiments(request)
    assert [one.name for one in response.experiments] == ["flights b", "flights a"]
    delete = api.DeleteExperimentRequest(experiment_id=response.experiments[0].experiment_id)
    await service.ada.DeleteExperiment(delete)
    request.lifecycle_stage = pb.LIFECYCLE_STAGE_DELETED
    response = await service.ada.SearchExperiments(request)
    assert [one.name for one in response.experiments] == ["flights b"]


async def test_a_page_of_heavy_runs_ends_early_and_loses_none(service: Service) -> None:
    for number in range(20):
        run = await new_run(service, name=f"heavy-{number}")
        params = [pb.Param(key=f"p{n}", value="x" * 6000) for n in range(100)]
        await service.ada.LogBatch(api.LogBatchRequest(run_id=run.run_id, params=params))
    request = api.SearchRunsRequest(experiment_ids=["0"], page_size=1000)
    first = await service.ada.SearchRuns(request)
    assert 0 < len(first.runs) < 20
    assert await found(service, page_size=1000) == [f"heavy-{n}" for n in reversed(range(20))]


async def test_pages_larger_than_a_slice_are_filled(service: Service) -> None:
    principal = Principal("ada")
    for number in range(250):
        await service.cases.runs.create(
            principal, experiment_id="0", name=str(number), tags={}, started_at=number
        )
    request = api.SearchRunsRequest(experiment_ids=["0"], page_size=220)
    page = await service.ada.SearchRuns(request)
    assert [run.name for run in page.runs] == [str(n) for n in reversed(range(30, 250))]
    assert await found(service, page_size=250) == [str(n) for n in reversed(range(250))]
    request.page_size = 250
    assert (await service.ada.SearchRuns(request)).next_page_token == ""
