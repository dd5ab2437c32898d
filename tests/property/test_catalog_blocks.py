"""Blocks of appended rows are the same wherever the batches of a stream begin and end."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from services.catalog.domain.arrow_rows import ROWS_PER_BLOCK, BlockCutter, block_bytes

ROWS = pa.RecordBatch.from_pydict(
    {
        "x": pa.array(range(200_000), pa.int64()),
        "y": pa.array(["w" * (i % 300) if i % 7 else None for i in range(200_000)]),
    }
)


def blocks(cuts: list[int]) -> list[bytes]:
    cutter, found, start = BlockCutter(), [], 0
    for cut in [*sorted(set(cuts)), ROWS.num_rows]:
        found += list(cutter.push(ROWS.slice(start, cut - start)))
        start = cut
    rest = cutter.rest()
    if rest is not None:
        found.append(rest)
    return [block_bytes(block) for block in found]


WHOLE = blocks([])


@settings(max_examples=20)
@given(st.lists(st.integers(0, ROWS.num_rows), max_size=12))
def test_cuts_of_the_stream_do_not_matter(cuts: list[int]) -> None:
    assert [rows(block) for block in blocks(cuts)] == [rows(block) for block in WHOLE]


def rows(block: bytes) -> tuple[int, int, int]:
    table = pa.ipc.open_stream(block).read_all()
    assert table.num_rows <= ROWS_PER_BLOCK
    return table["x"][0].as_py(), table["x"][-1].as_py(), table.num_rows
