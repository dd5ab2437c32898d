"""Shared memory is lent to one at a time, and no more than there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.adapters.triton.region import Place, SharedRegion, stale_regions
from tests.helpers import unique_name

PAGE = 4096
SIZE = 64 * PAGE


@pytest.fixture(scope="module")
def region() -> Iterator[SharedRegion]:
    region = SharedRegion(unique_name("tessera_unit"), SIZE)
    region.open()
    yield region
    region.close()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 20 * PAGE) | st.none(), max_size=40))
def test_no_byte_is_lent_twice(region: SharedRegion, steps: list[int | None]) -> None:
    """None gives the oldest loan back."""
    lent: list[tuple[Place, int]] = []
    for step in steps:
        if step is None:
            if lent:
                region.give_back(lent.pop(0)[0])
            continue
        place = region.lend(step)
        if place is not None:
            assert place.size >= step
            assert place.offset + place.size <= SIZE
            mark = len(lent) % 255 + 1
            region.view(place.offset, place.size)[:] = bytes([mark]) * place.size
            lent.append((place, mark))
        for other, mark in lent:
            assert bytes(region.view(other.offset, other.size)) == bytes([mark]) * other.size
    for place, _ in lent:
        region.give_back(place)
    assert region.lent == 0


def test_what_is_not_lent_can_be_had_whole(region: SharedRegion) -> None:
    first, second = region.lend(10), region.lend(PAGE + 1)
    assert first == Place(0, PAGE)
    assert second == Place(PAGE, 2 * PAGE)
    assert region.lend(SIZE - 3 * PAGE + 1) is None
    region.give_back(first)
    assert region.lend(PAGE) == first
    region.give_back(first)
    assert second is not None
    region.give_back(second)
    whole = region.lend(SIZE)
    assert whole == Place(0, SIZE)
    region.give_back(whole)


def test_a_view_stays_inside(region: SharedRegion) -> None:
    with pytest.raises(ValueError, match="has no"):
        region.view(SIZE - 1, 2)


def test_the_object_is_this_users_and_ends_with_the_region() -> None:
    name = unique_name("tessera_unit")
    region = SharedRegion(name, SIZE)
    region.open()
    path = Path("/dev/shm") / name  # noqa: S108
    assert path.stat().st_mode & 0o777 == 0o600
    assert stale_regions(name) == [name]
    with pytest.raises(FileExistsError):
        SharedRegion(name, SIZE).open()
    region.close()
    region.close()
    assert stale_regions(name) == []


def test_a_machine_without_memory_lends_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    region = SharedRegion(unique_name("tessera_unit"), 32 << 20)
    region.open()
    try:
        place = region.lend(1 << 20)
        assert place is not None
        monkeypatch.setattr(os, "posix_fallocate", full)
        assert region.lend(8 << 20) is None
        region.give_back(place)
        assert region.lend(4 << 20) == Place(0, 4 << 20)
    finally:
        region.close()
