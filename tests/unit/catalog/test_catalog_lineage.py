"""Lineage: what events may say, and what a walk shows to whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.catalog.convert.lineage import edge_from_proto, edge_to_proto
from services.catalog.domain.lineage import Direction, LineageEdge, LineageNode, NodeType
from services.catalog.domain.privileges import Privilege
from services.catalog.errors import InvalidEdge, SecurableNotFound
from services.catalog.handlers.lineage import LineageGraph, store_edges
from tessera.catalog.v1 import lineage_service_pb2 as pb
from tests.catalog_world import World, catalog, schema, table

NOW = datetime(2013, 5, 1, tzinfo=UTC)


def node(text: str) -> LineageNode:
    """`T:main.default.a`, `R:run-1`, `M:main.default.m/1`, `L:m-1`, `E:front`"""
    kind, _, name = text.partition(":")
    kinds = {
        "T": NodeType.TABLE,
        "R": NodeType.RUN,
        "M": NodeType.MODEL_VERSION,
        "E": NodeType.ENDPOINT,
        "L": NodeType.LOGGED_MODEL,
    }
    return LineageNode(kinds[kind], name)


def edge(source: str, target: str, at: datetime = NOW) -> LineageEdge:
    return LineageEdge(node(source), node(target), at, "ada")


async def put(world: World, *edges: LineageEdge) -> None:
    async with world.store.write() as tx:
        await store_edges(tx.lineage, edges)
        await tx.commit()


def shown(graph: LineageGraph) -> list[tuple[str, str]]:
    return [(e.source.name, e.target.name) for e in graph.edges]


FLOW = (
    edge("T:main.default.raw", "T:main.default.clean"),
    edge("T:main.default.clean", "R:run-1"),
    edge("R:run-1", "M:main.default.m/1"),
    edge("M:main.default.m/1", "E:front"),
)


class TestWalks:
    async def test_go_up_down_and_both_ways_nearest_first(self, world: World) -> None:
        await put(world, *FLOW)
        admin, walk = await world.admin(), world.cases.lineage.walk
        up = await walk(admin, node("M:main.default.m/1"), Direction.UPSTREAM, 0)
        assert shown(up) == [
            ("run-1", "main.default.m/1"),
            ("main.default.clean", "run-1"),
            ("main.default.raw", "main.default.clean"),
        ]
        down = await walk(admin, node("T:main.default.clean"), Direction.DOWNSTREAM, 2)
        assert shown(down) == [("main.default.clean", "run-1"), ("run-1", "main.default.m/1")]
        both = await walk(admin, node("R:run-1"), Direction.BOTH, 1)
        assert set(shown(both)) == {
            ("main.default.clean", "run-1"),
            ("run-1", "main.default.m/1"),
        }

    async def test_end_in_cycles(self, world: World) -> None:
        ring = [f"T:main.default.t{n}" for n in range(5)]
        await put(world, *(edge(a, b) for a, b in zip(ring, ring[1:] + ring[:1], strict=True)))
        for direction in Direction:
            graph = await world.cases.lineage.walk(
                await world.admin(), node(ring[0]), direction, 100
            )
            assert len(graph.edges) == 5
            assert not graph.truncated

    async def test_say_when_there_was_more(self, world: World) -> None:
        await put(world, *(edge("R:hub", f"M:main.default.m/{n}") for n in range(1, 1200)))
        graph = await world.cases.lineage.walk(
            await world.admin(), node("R:hub"), Direction.DOWNSTREAM, 0
        )
        assert (len(graph.edges), graph.truncated) == (1000, True)

    async def test_of_what_nobody_told_are_empty(self, world: World) -> None:
        graph = await world.cases.lineage.walk(
            await world.admin(), node("R:unknown"), Direction.BOTH, 0
        )
        assert graph.edges == ()


class TestVisibility:
    async def test_hidden_nodes_hide_what_only_they_lead_to(self, world: World) -> None:
        ada = await world.user("ada")
        for name in ("a", "secret", "b"):
            await world.make(table(f"main.default.{name}"))
        await world.make(schema("main.open"))
        await world.make(table("main.open.seen"))
        await put(
            world,
            edge("T:main.open.seen", "T:main.default.secret"),
            edge("T:main.default.secret", "T:main.open.end"),
            edge("T:main.open.seen", "R:run-1"),
        )
        await world.make(table("main.open.end"))
        await world.grant("ada", schema("main.open"), Privilege.BROWSE)
        walk = world.cases.lineage.walk
        graph = await walk(ada, node("T:main.open.seen"), Direction.BOTH, 0)
        assert shown(graph) == [("main.open.seen", "run-1")]
        graph = await walk(ada, node("T:main.open.end"), Direction.UPSTREAM, 0)
        assert shown(graph) == []
        await world.grant("ada", catalog("main"), Privilege.BROWSE)
        graph = await walk(ada, node("T:main.open.end"), Direction.UPSTREAM, 0)
        assert shown(graph) == [
            ("main.default.secret", "main.open.end"),
            ("main.open.seen", "main.default.secret"),
        ]

    async def test_a_start_that_is_not_seen_is_not_found(self, world: World) -> None:
        ada = await world.user("ada")
        await put(world, *FLOW)
        for start in ("T:main.default.raw", "M:main.default.m/1", "E:front"):
            with pytest.raises(SecurableNotFound):
                await world.cases.lineage.walk(ada, node(start), Direction.BOTH, 0)

    async def test_a_run_shows_no_more_than_its_neighbours_do(self, world: World) -> None:
        ada = await world.user("ada")
        await put(world, *FLOW)
        graph = await world.cases.lineage.walk(ada, node("R:run-1"), Direction.BOTH, 0)
        assert graph.edges == ()


async def test_an_edge_told_again_keeps_its_latest_time(world: World) -> None:
    later = NOW + timedelta(days=1)
    await put(world, edge("R:r", "M:main.default.m/1", later))
    await put(world, edge("R:r", "M:main.default.m/1"), edge("R:r", "M:main.default.m/1"))
    graph = await world.cases.lineage.walk(await world.admin(), node("R:r"), Direction.BOTH, 0)
    assert [one.observed_at for one in graph.edges] == [later]


@pytest.mark.parametrize(
    ("source", "target", "field"),
    [
        ((0, "x"), (4, "r"), "edges[0].source.type"),
        ((99, "x"), (4, "r"), "edges[0].source.type"),
        ((1, "two.parts"), (4, "r"), "edges[0].source.name"),
        ((1, "a.b.C"), (4, "r"), "edges[0].source.name"),
        ((4, ""), (4, "r"), "edges[0].source.name"),
        ((4, "a b"), (4, "r"), "edges[0].source.name"),
        ((4, "r"), (5, "a.b.c"), "edges[0].target.name"),
        ((4, "r"), (5, "a.b.c/0"), "edges[0].target.name"),
        ((4, "r"), (5, "a.b/1"), "edges[0].target.name"),
        ((4, "r"), (6, "Not a name"), "edges[0].target.name"),
        ((4, "r"), (4, "r"), "edges[0]"),
    ],
)
def test_edges_from_outside_are_checked_by_field(
    source: tuple[int, str], target: tuple[int, str], field: str
) -> None:
    told = pb.LineageEdge(
        source=pb.LineageNode(type=source[0], name=source[1]),  # type: ignore[arg-type]
        target=pb.LineageNode(type=target[0], name=target[1]),  # type: ignore[arg-type]
    )
    with pytest.raises(InvalidEdge) as failure:
        edge_from_proto(told, "edges[0]", NOW)
    assert failure.value.violations[0].field == field


def test_times_and_principals_are_checked_too() -> None:
    good = edge_to_proto(edge("R:r", "M:a.b.c/1"))
    assert edge_from_proto(good, "e", NOW) == edge("R:r", "M:a.b.c/1")
    logged = edge_to_proto(edge("R:r", "L:m-0a"))
    assert edge_from_proto(logged, "e", NOW) == edge("R:r", "L:m-0a")
    good.ClearField("observed_at")
    assert edge_from_proto(good, "e", NOW).observed_at == NOW
    good.observed_at.seconds = 10**15
    with pytest.raises(InvalidEdge, match=r"e\.observed_at"):
        edge_from_proto(good, "e", NOW)
    good.ClearField("observed_at")
    good.principal = "x" * 129
    with pytest.raises(InvalidEdge, match=r"e\.principal"):
        edge_from_proto(good, "e", NOW)
