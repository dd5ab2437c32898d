"""Experiments and runs through the gRPC door."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import tracking_events_pb2
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2 as api
from tests.integration.tracking.calls import metric, new_experiment, new_run, refused, run_of, told

from .conftest import Service

EXPERIMENT = securable_pb2.SECURABLE_TYPE_EXPERIMENT


# Experiments


async def test_an_experiment_is_created_once_per_request(service: Service) -> None:
    request = api.CreateExperimentRequest(
        experiment=pb.Experiment(name="flights", tags={"team": "ops"}), request_id="r1"
    )
    first = (await service.ada.CreateExperiment(request)).experiment
    again = (await service.ada.CreateExperiment(request)).experiment
    assert first == again
    assert first.created_by == "ada"
    assert first.lifecycle_stage == pb.LIFECYCLE_STAGE_ACTIVE
    assert first.artifact_location == f"s3://test/tracking/{first.experiment_id}"
    assert service.authority.owner_of(EXPERIMENT, first.experiment_id) == "ada"
    by_name = await service.ada.GetExperiment(api.GetExperimentRequest(name="flights"))
    assert by_name.experiment == first


async def test_a_taken_name_is_refused_and_leaves_no_securable(service: Service) -> None:
    made = await new_experiment(service)
    request = api.CreateExperimentRequest(experiment=pb.Experiment(name="flights"))
    info = await refused(
        service.ada.CreateExperiment(request), grpc.StatusCode.ALREADY_EXISTS, "flights"
    )
    assert info.reason == "EXPERIMENT_NAME_TAKEN"
    # Many at once: one wins, and only its securable stays.
    tries = await asyncio.gather(
        *(new_experiment(service, "other") for _ in range(8)), return_exceptions=True
    )
    [winner] = [one for one in tries if isinstance(one, pb.Experiment)]
    owned = {name for kind, name in service.authority._owners if kind == EXPERIMENT}
    assert owned == {made.experiment_id, winner.experiment_id}


async def test_an_update_changes_what_its_mask_names(service: Service) -> None:
    made = await new_experiment(service, tags={"a": "1"})
    changed = pb.Experiment(
        experiment_id=made.experiment_id, name="new", tags={"b": "2"}, etag=made.etag
    )
    request = api.UpdateExperimentRequest(experiment=changed, update_mask=FieldMask(paths=["tags"]))
    updated = (await service.ada.UpdateExperiment(request)).experiment
    assert (updated.name, dict(updated.tags)) == ("flights", {"b": "2"})
    assert updated.etag != made.etag
    await refused(service.ada.UpdateExperiment(request), grpc.StatusCode.ABORTED)
    request.update_mask.paths[:] = ["created_by"]
    await refused(
        service.ada.UpdateExperiment(request), grpc.StatusCode.INVALID_ARGUMENT, "created_by"
    )


async def test_deleting_an_experiment_takes_its_runs_along_and_back(service: Service) -> None:
    made = await new_experiment(service)
    kept = await new_run(service, made.experiment_id)
    dropped = await new_run(service, made.experiment_id)
    await service.ada.DeleteRun(api.DeleteRunRequest(run_id=dropped.run_id))
    delete = api.DeleteExperimentRequest(experiment_id=made.experiment_id)
    await service.ada.DeleteExperiment(delete)
    await refused(
        service.ada.DeleteExperiment(delete),
        grpc.StatusCode.FAILED_PRECONDITION,
        "must be in the 'active' state. Current state is deleted",
    )
    assert (await run_of(service, kept.run_id)).lifecycle_stage == pb.LIFECYCLE_STAGE_DELETED
    await refused(
        service.ada.LogBatch(api.LogBatchRequest(run_id=kept.run_id, metrics=[metric("m", 1)])),
        grpc.StatusCode.FAILED_PRECONDITION,
        f"The run {kept.run_id} must be in the 'active' state. Current state is deleted.",
    )
    await refused(
        service.ada.CreateRun(api.CreateRunRequest(experiment_id=made.experiment_id)),
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    await refused(
        service.ada.RestoreRun(api.RestoreRunRequest(run_id=kept.run_id)),
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    await service.ada.RestoreExperiment(
        api.RestoreExperimentRequest(experiment_id=made.experiment_id)
    )
    assert (await run_of(service, kept.run_id)).lifecycle_stage == pb.LIFECYCLE_STAGE_ACTIVE
    assert (await run_of(service, dropped.run_id)).lifecycle_stage == pb.LIFECYCLE_STAGE_DELETED
    await service.ada.RestoreRun(api.RestoreRunRequest(run_id=dropped.run_id))


async def test_the_default_experiment_is_there_open_and_stays(service: Service) -> None:
    by_name = await service.bob.GetExperiment(api.GetExperimentRequest(name="Default"))
    assert by_name.experiment.experiment_id == "0"
    run = (await service.bob.CreateRun(api.CreateRunRequest(experiment_id="0"))).run
    await service.bob.LogBatch(api.LogBatchRequest(run_id=run.run_id, metrics=[metric("m", 1)]))
    assert len((await run_of(service, run.run_id)).metrics) == 1
    await refused(
        service.admin.DeleteExperiment(api.DeleteExperimentRequest(experiment_id="0")),
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    mine = await new_run(service)
    delete = api.DeleteRunRequest(run_id=mine.run_id)
    await refused(service.bob.DeleteRun(delete), grpc.StatusCode.PERMISSION_DENIED, "MANAGE")
    await service.ada.DeleteRun(delete)


# Authorisation


async def test_without_grants_nothing_is_seen_or_changed(service: Service) -> None:
    made = await new_experiment(service)
    run = await new_run(service, made.experiment_id)
    mask = FieldMask(paths=["name"])
    calls: list[tuple[Any, str]] = [
        (service.bob.CreateExperiment(
            api.CreateExperimentRequest(experiment=pb.Experiment(name="x"))), "CREATE EXPERIMENT"),
        (service.bob.GetExperiment(api.GetExperimentRequest(name="flights")), "SELECT"),
        (service.bob.UpdateExperiment(
            api.UpdateExperimentRequest(experiment=made, update_mask=mask)), "MODIFY"),
        (service.bob.DeleteExperiment(
            api.DeleteExperimentRequest(experiment_id=made.experiment_id)), "MANAGE"),
        (service.bob.CreateRun(api.CreateRunRequest(experiment_id=made.experiment_id)), "MODIFY"),
        (service.bob.GetRun(api.GetRunRequest(run_id=run.run_id)), "SELECT"),
        (service.bob.UpdateRun(api.UpdateRunRequest(run=run, update_mask=mask)), "MODIFY"),
        (service.bob.DeleteRun(api.DeleteRunRequest(run_id=run.run_id)), "MANAGE"),
        (service.bob.LogBatch(
            api.LogBatchRequest(run_id=run.run_id, metrics=[metric("m", 1)])), "MODIFY"),
        (service.bob.GetMetricHistory(
            api.GetMetricHistoryRequest(run_id=run.run_id, key="m")), "SELECT"),
        (service.bob.ListArtifacts(api.ListArtifactsRequest(run_id=run.run_id)), "SELECT"),
    ]  # fmt: skip
    for call, needed in calls:
        info = await refused(call, grpc.StatusCode.PERMISSION_DENIED, needed)
        assert info.metadata["principal"] == "bob"
    found = await service.bob.SearchRuns(
        api.SearchRunsRequest(experiment_ids=[made.experiment_id, "0"])
    )
    assert list(found.runs) == []
    experiments = await service.bob.SearchExperiments(api.SearchExperimentsRequest())
    assert [one.experiment_id for one in experiments.experiments] == ["0"]
    assert await run_of(service, run.run_id) == run


async def test_grants_on_an_experiment_hold_for_its_runs(service: Service) -> None:
    made = await new_experiment(service)
    run = await new_run(service, made.experiment_id)
    read = [securable_pb2.PRIVILEGE_SELECT]
    service.authority.grant("bob", read, EXPERIMENT, made.experiment_id)
    assert (await service.bob.GetRun(api.GetRunRequest(run_id=run.run_id))).run == run
    found = await service.bob.SearchRuns(api.SearchRunsRequest(experiment_ids=[made.experiment_id]))
    assert list(found.runs) == [run]
    experiments = await service.bob.SearchExperiments(api.SearchExperimentsRequest(page_size=1))
    assert [one.experiment_id for one in experiments.experiments] == [made.experiment_id]
    rest = await service.bob.SearchExperiments(
        api.SearchExperimentsRequest(page_size=1, page_token=experiments.next_page_token)
    )
    assert [one.experiment_id for one in rest.experiments] == ["0"]
    assert rest.next_page_token == ""
    batch = api.LogBatchRequest(run_id=run.run_id, metrics=[metric("m", 1)])
    await refused(service.bob.LogBatch(batch), grpc.StatusCode.PERMISSION_DENIED, "MODIFY")
    write = [securable_pb2.PRIVILEGE_MODIFY]
    service.authority.grant("bob", write, EXPERIMENT, made.experiment_id)
    await service.bob.LogBatch(batch)


# Runs


async def test_a_run_is_created_once_per_request_and_told_once(service: Service) -> None:
    request = api.CreateRunRequest(
        experiment_id="0",
        tags=[pb.Tag(key="b", value="2"), pb.Tag(key="a", value="1")],
        started_at=Timestamp(seconds=5, nanos=123_456_789),
        request_id="one",
    )
    first = (await service.ada.CreateRun(request)).run
    assert (await service.ada.CreateRun(request)).run == first
    other = (await service.bob.CreateRun(request)).run
    assert other.run_id != first.run_id
    assert first.status == pb.RUN_STATUS_RUNNING
    assert first.name.count("-") == 2
    assert first.started_at == Timestamp(seconds=5, nanos=123_456_000)
    assert not first.HasField("ended_at")
    assert [tag.key for tag in first.tags] == ["a", "b"]
    assert first.artifact_location == f"s3://test/tracking/0/{first.run_id}/artifacts"
    events = await told(service)
    assert [type(event) for event in events] == [tracking_events_pb2.RunStarted] * 2
    assert events[0].run == first


async def test_a_run_ends_once_with_what_it_logged(service: Service) -> None:
    run = await new_run(service, name="first")
    await service.ada.LogBatch(
        api.LogBatchRequest(
            run_id=run.run_id,
            metrics=[metric("auc", 0.7, 1), metric("auc", 0.8, 2)],
            params=[pb.Param(key="hidden", value="64")],
        )
    )
    request = api.UpdateRunRequest(
        run=pb.Run(run_id=run.run_id, status=pb.RUN_STATUS_FINISHED),
        update_mask=FieldMask(paths=["status"]),
    )
    ended = (await service.ada.UpdateRun(request)).run
    assert ended.status == pb.RUN_STATUS_FINISHED
    assert ended.ended_at.ToDatetime() >= ended.started_at.ToDatetime()
    assert (await service.ada.UpdateRun(request)).run.ended_at == ended.ended_at
    events = [one for one in await told(service) if isinstance(one, tracking_events_pb2.RunEnded)]
    assert [one.run for one in events] == [ended]
    assert events[0].run.metrics == [metric("auc", 0.8, 2)]
    # Back to work, and over again: told again.
    request.run.status = pb.RUN_STATUS_RUNNING
    assert not (await service.ada.UpdateRun(request)).run.HasField("ended_at")
    request.run.status = pb.RUN_STATUS_FAILED
    request.run.ended_at.FromSeconds(4_000_000_000)
    request.update_mask.paths.append("ended_at")
    assert (await service.ada.UpdateRun(request)).run.ended_at == Timestamp(seconds=4_000_000_000)
    assert len(await told(service)) == 3


async def test_an_event_of_a_huge_run_still_fits_its_topic(service: Service) -> None:
    run = await new_run(service)
    for part in range(3):
        params = [pb.Param(key=f"p{part}_{n}", value="x" * 6000) for n in range(100)]
        await service.ada.LogBatch(api.LogBatchRequest(run_id=run.run_id, params=params))
    await service.ada.UpdateRun(
        api.UpdateRunRequest(
            run=pb.Run(run_id=run.run_id, status=pb.RUN_STATUS_FINISHED),
            update_mask=FieldMask(paths=["status"]),
        )
    )
    event = (await told(service))[-1]
    assert event.run.run_id == run.run_id
    assert len(event.run.params) == 0
    assert len((await run_of(service, run.run_id)).params) == 300


@pytest.mark.parametrize(
    ("paths", "fields", "words"),
    [
        ([], {}, "update_mask"),
        (["params"], {}, "'params' cannot be changed"),
        (["status"], {}, "status must be"),
        (["status"], {"status": 17}, "status must be"),
        (["ended_at"], {}, "ended_at must be set"),
        (["ended_at"], {"ended_at": Timestamp(seconds=9)}, "a run that is RUNNING has no end"),
        (["name"], {"name": ""}, "must not be empty"),
        (["status", "ended_at"],
         {"status": pb.RUN_STATUS_KILLED, "ended_at": Timestamp(seconds=-9)}, "1970"),
    ],
)  # fmt: skip
async def test_senseless_updates_change_nothing(
    service: Service, paths: list[str], fields: dict[str, Any], words: str
) -> None:
    run = await new_run(service)
    request = api.UpdateRunRequest(
        run=pb.Run(run_id=run.run_id, **fields), update_mask=FieldMask(paths=paths)
    )
    await refused(service.ada.UpdateRun(request), grpc.StatusCode.INVALID_ARGUMENT, words)
    assert await run_of(service, run.run_id) == run


async def test_a_stale_etag_is_refused(service: Service) -> None:
    run = await new_run(service)
    request = api.UpdateRunRequest(run=run, update_mask=FieldMask(paths=["name"]))
    request.run.name = "second"
    await service.ada.UpdateRun(request)
    await refused(service.ada.UpdateRun(request), grpc.StatusCode.ABORTED)


@pytest.mark.parametrize("missing", ["nope", "00000000-0000-7000-8000-000000000000"])
async def test_unknown_things_are_not_found(service: Service, missing: str) -> None:
    not_found = grpc.StatusCode.NOT_FOUND
    calls = [
        service.ada.GetRun(api.GetRunRequest(run_id=missing)),
        service.ada.LogBatch(api.LogBatchRequest(run_id=missing)),
        service.ada.DeleteRun(api.DeleteRunRequest(run_id=missing)),
        service.ada.GetMetricHistory(api.GetMetricHistoryRequest(run_id=missing, key="m")),
        service.ada.ListArtifacts(api.ListArtifactsRequest(run_id=missing)),
    ]
    for call in calls:
        await refused(call, not_found, f"Run with id={missing} not found")
    for call in (
        service.ada.GetExperiment(api.GetExperimentRequest(experiment_id=missing)),
        service.ada.DeleteExperiment(api.DeleteExperimentRequest(experiment_id=missing)),
        service.ada.CreateRun(api.CreateRunRequest(experiment_id=missing)),
    ):
        await refused(call, not_found, f"No Experiment with id={missing} exists")
