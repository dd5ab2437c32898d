"""The route table and the splitter behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from services.inference.domain.fields import text_field
from services.inference.domain.splitter import TrafficSplitter, cycle
from services.inference.errors import EndpointNotFound, EndpointNotReady
from services.inference.gateway.nap import Naps
from services.inference.gateway.routing import Route, RouteTable

Make = Callable[..., Any]


def test_turns_are_spread_evenly() -> None:
    assert cycle([50, 25, 25]) == (0, 1, 2, 0)
    assert cycle([100]) == (0,)
    assert cycle([0, 100]) == (1,)
    assert cycle([90, 10]) == (0, 0, 0, 0, 0, 1, 0, 0, 0, 0)


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 101]])
def test_weights_that_split_nothing_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weight"):
        TrafficSplitter(weights)


def test_an_endpoint_without_a_configuration_is_not_ready(make_endpoint: Make) -> None:
    table = RouteTable()
    table.put(replace(make_endpoint(), config=None))
    with pytest.raises(EndpointNotReady):
        table.find("flights")
    table.put(make_endpoint())
    assert table.find("flights").config_version == 1
    table.remove("flights")
    with pytest.raises(EndpointNotFound):
        table.find("flights")


def test_changed_shares_keep_what_is_in_flight(make_endpoint: Make) -> None:
    table = RouteTable()
    table.put(make_endpoint(shares=(100, 0)))
    served = table.find("flights").choose("")
    served.enter()
    assert table.put(make_endpoint(shares=(0, 100))) == ()
    assert served in table.find("flights").entities
    assert table.find("flights").choose("") is not served


async def test_a_replaced_entity_drains(make_endpoint: Make) -> None:
    table = RouteTable()
    table.put(make_endpoint())
    served = table.find("flights").choose("")
    served.enter()
    served.enter()
    (retired,) = table.put(make_endpoint(version=2))
    assert retired is served
    waiting = asyncio.create_task(retired.drained())
    served.leave()
    await asyncio.sleep(0)
    assert not waiting.done()
    served.leave()
    await asyncio.wait_for(waiting, 1)


def test_a_route_needs_a_configuration(make_endpoint: Make) -> None:
    with pytest.raises(ValueError, match="configuration"):
        Route(replace(make_endpoint(), config=None), Naps())


def test_text_fields_are_written_as_protobuf_does() -> None:
    assert text_field(1, "ab") == b"\x0a\x02ab"
    assert text_field(2, "") == b"\x12\x00"
    assert text_field(1, "x" * 300)[:3] == b"\x0a\xac\x02"
    with pytest.raises(ValueError, match="15"):
        text_field(16, "x")
