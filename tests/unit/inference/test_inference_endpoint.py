"""The life of an endpoint's configurations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.inference.domain.endpoint import (
    Device,
    Endpoint,
    EndpointState,
    EntityRequest,
    InstanceGroup,
    UpdateState,
    runtime_name,
)
from services.inference.domain.entity_rules import check_entities
from services.inference.errors import EndpointNotReady, InvalidConfig, StaleEtag, UpdateInProgress
from tessera_kit.ids import new_id

Make = Callable[..., Endpoint]
LATER = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def test_the_old_configuration_answers_until_the_new_one_is_ready(make_endpoint: Make) -> None:
    endpoint = make_endpoint()
    config = make_endpoint(version=2).config
    assert config is not None
    updating = endpoint.begin(config, LATER, "e2")
    assert updating.config == endpoint.config
    assert updating.state is EndpointState.READY
    assert updating.update_state is UpdateState.IN_PROGRESS
    done = updating.finish(LATER + timedelta(seconds=1), "e3")
    assert done.config == replace(config, ready_at=LATER + timedelta(seconds=1))
    assert done.pending is None
    assert done.update_state is UpdateState.NOT_UPDATING


def test_a_failed_update_leaves_the_old_one(make_endpoint: Make) -> None:
    endpoint = make_endpoint()
    config = make_endpoint(version=2).config
    assert config is not None
    failed = endpoint.begin(config, LATER, "e2").fail("no such layer", LATER, "e3")
    assert failed.config == endpoint.config
    assert failed.pending is None
    assert (failed.update_state, failed.update_message) == (UpdateState.FAILED, "no such layer")
    assert failed.last_config_version == 2, "a configuration's number is not used twice"


def test_a_second_update_must_wait(make_endpoint: Make) -> None:
    config = make_endpoint(version=2).config
    assert config is not None
    updating = make_endpoint().begin(config, LATER, "e2")
    with pytest.raises(UpdateInProgress):
        updating.begin(config, LATER, "e3")


def test_a_new_endpoint_is_not_ready(make_endpoint: Make) -> None:
    assert replace(make_endpoint(), config=None).state is EndpointState.NOT_READY


def test_an_etag_is_checked_when_given(make_endpoint: Make) -> None:
    endpoint = make_endpoint()
    endpoint.check_etag("")
    endpoint.check_etag("etag-1")
    with pytest.raises(StaleEtag):
        endpoint.check_etag("etag-0")


def test_shares_change_at_once(make_endpoint: Make) -> None:
    endpoint = make_endpoint(shares=(90, 10))
    moved = endpoint.with_shares({"delay-1": 0, "delay-2": 100}, LATER, "e2")
    assert moved.config is not None
    assert [entity.traffic_percent for entity in moved.config.entities] == [0, 100]
    assert moved.config.version == 1


@pytest.mark.parametrize(
    "shares",
    [
        {"delay-1": 100},
        {"delay-1": 50, "delay-2": 49},
        {"delay-1": 50, "delay-2": 50, "other": 0},
        {"delay-1": 101, "delay-2": -1},
    ],
)
def test_shares_that_do_not_fit_are_refused(make_endpoint: Make, shares: dict[str, int]) -> None:
    with pytest.raises(InvalidConfig):
        make_endpoint(shares=(90, 10)).with_shares(shares, LATER, "e2")


def test_an_endpoint_that_serves_nothing_has_no_shares(make_endpoint: Make) -> None:
    with pytest.raises(EndpointNotReady):
        replace(make_endpoint(), config=None).with_shares({"delay-1": 100}, LATER, "e2")


def entity(name: str = "", version: int = 1, alias: str = "", share: int = 100) -> EntityRequest:
    return EntityRequest(name, "main.flights.delay", version, alias, share, 1)


@pytest.mark.parametrize(
    ("entities", "field"),
    [
        ([entity(version=0)], "config.served_entities[0].model_version"),
        ([entity(alias="champion")], "config.served_entities[0].model_version"),
        ([entity(name="a b")], "config.served_entities[0].name"),
        ([entity("a", share=50), entity("a", share=50)], "config.served_entities[1].name"),
        ([entity(share=99)], "config.served_entities"),
        ([], "config.served_entities"),
    ],
)
def test_entities_that_do_not_fit_are_named(entities: list[EntityRequest], field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_entities(entities)
    assert field in [violation.field for violation in caught.value.violations]


def test_runtime_names_are_plain_and_unique() -> None:
    identifiers = [new_id() for _ in range(3)]
    names = {
        runtime_name(identifier, version, index)
        for identifier in identifiers
        for version in (1, 11)
        for index in (0, 1)
    }
    assert len(names) == 12
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_queue": 4}, "max_queue"),
        ({"instance_count": 4, "max_concurrency": 3}, "max_concurrency"),
        ({"instance_groups": (InstanceGroup(Device.CPU, 1, (0,)),)}, "instance_groups[0].gpus"),
        (
            {
                "instance_groups": (InstanceGroup(Device.CPU, 2), InstanceGroup(Device.GPU, 2)),
                "max_concurrency": 3,
            },
            "max_concurrency",
        ),
    ],
)
def test_bounds_and_devices_must_fit_together(changes: dict[str, Any], field: str) -> None:
    asked = replace(EntityRequest("", "a.b.c", 1, "", 100, 1), **changes)
    with pytest.raises(InvalidConfig) as caught:
        check_entities([asked])
    assert caught.value.violations[0].field == f"config.served_entities[0].{field}"
