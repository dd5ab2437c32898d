"""The lineage graph as SVG: what was used stands left of what was made of it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tessera.catalog.v1 import lineage_service_pb2 as lineage

_COLUMNS = (
    lineage.LINEAGE_NODE_TYPE_TABLE,
    lineage.LINEAGE_NODE_TYPE_JOB,
    lineage.LINEAGE_NODE_TYPE_RUN,
    lineage.LINEAGE_NODE_TYPE_LOGGED_MODEL,
    lineage.LINEAGE_NODE_TYPE_MODEL_VERSION,
    lineage.LINEAGE_NODE_TYPE_ENDPOINT,
    lineage.LINEAGE_NODE_TYPE_MONITOR,
)
_COLORS = ("#0369a1", "#64748b", "#4f46e5", "#a21caf", "#d97706", "#0f766e", "#be123c")
_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y = 168, 44, 36, 18
_LONGEST = 24

Node = tuple[int, str]


def draw(edges: Sequence[lineage.LineageEdge]) -> str:
    """An SVG of the graph; empty when there are no edges."""
    nodes = sorted({end for edge in edges for end in _ends(edge)})
    depths = _depths(edges)
    columns = sorted(set(depths.values()))
    places: dict[Node, tuple[int, int]] = {}
    tallest = 1
    for x, depth in enumerate(columns):
        members = [node for node in nodes if depths[node] == depth]
        tallest = max(tallest, len(members))
        for y, node in enumerate(members):
            places[node] = (x * (_BOX_WIDTH + _GAP_X), y * (_BOX_HEIGHT + _GAP_Y))
    width = max(len(columns), 1) * (_BOX_WIDTH + _GAP_X) - _GAP_X
    height = tallest * (_BOX_HEIGHT + _GAP_Y) - _GAP_Y
    drawn = [_line(places, edge) for edge in edges] + [_box(node, places[node]) for node in places]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {width + 4} {height + 4}" '
        f'role="img" aria-label="Lineage graph">{"".join(drawn)}</svg>'
    )


def _depths(edges: Sequence[lineage.LineageEdge]) -> dict[Node, int]:
    """For each node the longest way to it; a cycle ends the count after as many steps as edges."""
    depths = dict.fromkeys((end for edge in edges for end in _ends(edge)), 0)
    for _ in edges:
        changed = False
        for edge in edges:
            source, target = _ends(edge)
            if depths[target] <= depths[source] < len(edges):
                depths[target], changed = depths[source] + 1, True
        if not changed:
            break
    return depths


def _ends(edge: lineage.LineageEdge) -> tuple[Node, Node]:
    return (edge.source.type, edge.source.name), (edge.target.type, edge.target.name)


def _line(places: dict[Node, tuple[int, int]], edge: lineage.LineageEdge) -> str:
    source, target = _ends(edge)
    (x1, y1), (x2, y2) = places[source], places[target]
    start, end = (x1 + _BOX_WIDTH, y1 + _BOX_HEIGHT / 2), (x2, y2 + _BOX_HEIGHT / 2)
    bend = max((end[0] - start[0]) / 2, 18)
    path = (
        f"M{start[0]} {start[1]} C{start[0] + bend} {start[1]} {end[0] - bend} {end[1]} "
        f"{end[0]} {end[1]}"
    )
    return f'<path d="{path}" fill="none" stroke="#94a3b8" stroke-width="1.5"/>'


def _box(node: Node, place: tuple[int, int]) -> str:
    kind, name = node
    color = _COLORS[_COLUMNS.index(lineage.LineageNodeType.ValueType(kind))]
    label = lineage.LineageNodeType.Name(lineage.LineageNodeType.ValueType(kind))
    title = label.removeprefix("LINEAGE_NODE_TYPE_").lower().replace("_", " ")
    short = name.rsplit(".", 1)[-1]
    short = short if len(short) <= _LONGEST else f"{short[: _LONGEST - 1]}…"
    x, y = place
    return (
        f'<g transform="translate({x} {y})"><title>{escape(name)}</title>'
        f'<rect width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="7" fill="#fff" stroke="{color}"/>'
        f'<text x="10" y="17" font-size="10" fill="{color}">{escape(title)}</text>'
        f'<text x="10" y="33" font-size="12" fill="#0f172a">{escape(short)}</text></g>'
    )
