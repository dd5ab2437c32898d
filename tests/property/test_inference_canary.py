"""What holds for every canary: shares that sum to 100, steps that only grow, an end that stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.inference.adapters.sql.canary_rows import canary_json, canary_value
from services.inference.domain.canary import (
    Canary,
    CanaryGuards,
    CanaryPlan,
    CanaryState,
    CanaryStep,
    Sight,
    check_plan,
    shares_at,
)

NOW = datetime(2026, 11, 26, 7, 0, 0, 250, tzinfo=UTC)


@st.composite
def baselines(draw: st.DrawFn) -> dict[str, int]:
    """Shares of 2 to 10 entities that sum to 100; that of `new` is below 100."""
    count = draw(st.integers(1, 9))
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=count, max_size=count)))
    shares = [after - before for before, after in zip([0, *cuts], [*cuts, 100], strict=True)]
    if shares[0] == 100:
        shares[0], shares[1] = 99, 1
    return {"new" if index == 0 else f"old-{index}": share for index, share in enumerate(shares)}


percents = st.lists(st.integers(1, 99), unique=True, max_size=4).map(
    lambda one: [*sorted(one), 100]
)
guards = st.builds(
    CanaryGuards,
    max_error_rate=st.none() | st.floats(0, 1),
    max_p99_ms=st.none() | st.floats(0.1, 100),
    max_p99_ratio=st.none() | st.floats(0.1, 10),
    min_requests=st.integers(1, 50),
    on_alert=st.booleans(),
    monitors=st.frozensets(st.text(max_size=5), max_size=3),
)
sights = st.integers(0, 100).flatmap(
    lambda count: st.builds(
        Sight,
        requests=st.just(count),
        errors=st.integers(0, count),
        p99_ms=st.floats(0, 200),
        others_p99_ms=st.floats(0, 200),
    )
)


@st.composite
def canaries(draw: st.DrawFn) -> Canary:
    steps = tuple(
        CanaryStep(percent, timedelta(seconds=draw(st.integers(0, 60))), draw(st.integers(1, 100)))
        for percent in draw(percents)
    )
    plan = CanaryPlan("new", steps, draw(guards))
    baseline = draw(baselines())
    check_plan(plan, baseline)
    return Canary(plan, baseline, NOW, NOW)


@given(baselines(), st.integers(0, 100))
def test_shares_sum_to_a_hundred_and_the_others_keep_their_proportions(
    baseline: dict[str, int], percent: int
) -> None:
    shares = shares_at(baseline, "new", percent)
    assert sum(shares.values()) == 100
    assert shares["new"] == percent
    others = sum(share for name, share in baseline.items() if name != "new")
    for name, share in baseline.items():
        if name != "new":
            assert abs(shares[name] - (100 - percent) * share / others) < 1
            assert shares[name] == 0 if share == 0 else shares[name] >= 0


@given(canaries(), st.lists(st.tuples(sights, st.integers(0, 90)), max_size=12))
def test_a_canary_grows_step_by_step_until_it_ends_for_good(
    canary: Canary, looks: list[tuple[Sight, int]]
) -> None:
    now = NOW
    for seen, seconds in looks:
        now += timedelta(seconds=seconds)
        after = canary.advance(seen, now)
        assert sum(after.shares.values()) == 100
        if canary.state is not CanaryState.RUNNING:
            assert after == canary
        elif after.state is CanaryState.ROLLED_BACK:
            assert after.reason
            assert after.shares == canary.baseline
            assert seen.requests >= canary.plan.guards.min_requests
        else:
            assert after.step - canary.step in (0, 1)
            moved = after.step > canary.step or after.state is CanaryState.SUCCEEDED
            if moved:
                step = canary.plan.steps[canary.step]
                assert seen.requests >= step.requests
                assert now - canary.step_started_at >= step.duration
                assert after.shares["new"] >= canary.shares["new"]
            if after.state is CanaryState.SUCCEEDED:
                assert canary.step + 1 == len(canary.plan.steps)
                assert after.shares["new"] == 100
        canary = after


@given(canaries(), sights)
def test_what_breaks_a_guard_never_grows(canary: Canary, seen: Sight) -> None:
    limits = canary.plan.guards
    late = NOW + timedelta(days=1)
    rate = limits.max_error_rate
    after = canary.advance(seen, late)
    judged = seen.requests >= limits.min_requests
    if rate is not None and judged and seen.errors > rate * seen.requests + 1e-9:
        assert after.state is CanaryState.ROLLED_BACK
    if limits.measured and seen.requests < limits.min_requests:
        assert (after.step, after.state) == (canary.step, CanaryState.RUNNING)


@given(canaries(), sights, st.booleans())
def test_what_is_stored_comes_back(canary: Canary, seen: Sight, ended: bool) -> None:
    if ended:
        canary = canary.advance(seen, NOW).end(CanaryState.CANCELED, "why é", NOW)
    assert canary_value(canary_json(canary)) == canary
