"""How many traces are recorded."""

from __future__ import annotations

from tessera_kit.telemetry.sampling import BoundedShare


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def picked(share: BoundedShare, of: int) -> int:
    return sum(share.picks() for _ in range(of))


def test_a_second_s_worth_at_once_and_then_as_time_passes() -> None:
    clock = Clock()
    share = BoundedShare(1.0, 20, clock)
    assert picked(share, 100) == 20
    clock.now += 0.25
    assert picked(share, 100) == 5
    clock.now += 3600
    assert picked(share, 100) == 20


def test_a_bound_below_one_in_a_second() -> None:
    clock = Clock()
    share = BoundedShare(1.0, 0.5, clock)
    assert picked(share, 10) == 1
    clock.now += 1.9
    assert picked(share, 10) == 0
    clock.now += 0.2
    assert picked(share, 10) == 1


def test_without_a_bound_the_share_alone_decides() -> None:
    assert picked(BoundedShare(1.0, 0), 5000) == 5000
    assert picked(BoundedShare(0.0, 0), 5000) == 0
    # The chance of a failure is below one in a billion.
    assert 350 < picked(BoundedShare(0.1, 0), 5000) < 650


def test_what_is_not_picked_takes_no_room() -> None:
    share = BoundedShare(0.0, 1, Clock())
    picked(share, 10)
    share.ratio = 1.0
    assert picked(share, 10) == 1
