"""The life of a job: whatever happens in whatever order, it ends once and stays ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.training.convert.events import events_of
from services.training.domain.chore import chores_of
from services.training.domain.job import (
    Checkpoint,
    InputTable,
    Job,
    JobSpec,
    JobState,
    PackageSource,
    Progress,
    RetryPolicy,
)
from services.training.domain.life import (
    MAX_LOSSES,
    AttemptBegun,
    AttemptEnded,
    AttemptPrepared,
    AttemptResult,
    AttemptRunning,
    CancelRequested,
    CheckpointSaved,
    CodeFetched,
    EndCause,
    Happening,
    InputsSeen,
    ProgressTold,
    RunCreated,
    TableRead,
    TimeUp,
    VersionRegistered,
    apply,
    backoff,
)
from tessera.events.v1 import training_events_pb2

START = datetime(2026, 1, 1, tzinfo=UTC)

numbers = st.integers(0, 6)
times = st.integers(0, 5000).map(lambda seconds: START + timedelta(seconds=seconds))
results = st.builds(
    AttemptResult, st.sampled_from(EndCause), st.sampled_from([0, 0, 1, -9]), st.just("why")
)
happenings: st.SearchStrategy[Happening] = st.one_of(
    st.builds(AttemptBegun, times),
    st.builds(RunCreated, st.sampled_from(["run-1", "run-2"])),
    st.builds(AttemptPrepared, numbers, st.uuids().map(str)),
    st.builds(CodeFetched, numbers, st.sampled_from(["", "commit-1", "commit-2"])),
    st.builds(InputsSeen, numbers, st.sampled_from([(), (InputTable("a.b.c", "v1"),)])),
    st.builds(
        TableRead, numbers, st.builds(InputTable, st.sampled_from("ab"), st.sampled_from("12"))
    ),
    st.builds(AttemptRunning, numbers, times),
    st.builds(AttemptEnded, numbers, times, results, st.floats(0, 1)),
    st.builds(CancelRequested, times, st.just("somebody")),
    st.builds(TimeUp, times),
    st.builds(ProgressTold, st.builds(Progress, st.integers(0, 100))),
    st.builds(
        CheckpointSaved,
        st.builds(Checkpoint, st.integers(0, 100), numbers, st.just("x"), st.just(1), times),
    ),
    st.builds(VersionRegistered, st.integers(1, 3)),
)


def new_job(retries: int = 2, timeout: float = 1000.0) -> Job:
    spec = JobSpec(
        "job",
        PackageSource("module"),
        retry=RetryPolicy(max_retries=retries),
        timeout=timedelta(seconds=timeout),
        output_model="a.b.c",
    )
    return Job("job-1", spec, "somebody", START)


def check_shape(job: Job) -> None:
    """What holds of a job in any state."""
    assert [attempt.number for attempt in job.attempts] == list(range(1, len(job.attempts) + 1))
    assert all(attempt.state.is_final for attempt in job.attempts[:-1])
    if job.attempt is not None:
        assert job.attempt.state.is_final != job.state.has_processes
        assert (job.attempt.ended_at is not None) == job.attempt.state.is_final
    else:
        assert not job.state.has_processes
    assert (job.ended_at is not None) == job.state.is_final
    assert (job.retry_at is not None) == (job.state is JobState.WAITING_FOR_RETRY)
    assert job.failures <= job.spec.retry.max_retries + 1
    assert job.losses <= MAX_LOSSES + 1


@given(st.lists(happenings, max_size=60), st.integers(0, 3))
@settings(max_examples=300)
def test_any_news_in_any_order_tell_at_most_one_end(news: list[Happening], retries: int) -> None:
    job = new_job(retries)
    told_ends = 0
    for happening in news:
        after = apply(job, happening)
        check_shape(after)
        if job.state.is_final:
            assert after is job
        if after is not job:
            told_ends += sum(
                isinstance(event.data, training_events_pb2.JobEnded)
                for event in events_of(job, after)
            )
        job = after
    assert told_ends == job.state.is_final


@given(st.lists(happenings, max_size=40))
def test_telling_everything_twice_changes_nothing(news: list[Happening]) -> None:
    once = twice = new_job()
    for happening in news:
        once = apply(once, happening)
        twice = apply(apply(twice, happening), happening)
        if isinstance(happening, AttemptBegun | VersionRegistered | ProgressTold):
            continue
        assert once == twice


@given(
    st.integers(1, 100),
    st.floats(0, 1),
    st.integers(0, 3600),
    st.integers(0, 3600),
)
def test_pauses_double_within_bounds(count: int, jitter: float, first: int, most: int) -> None:
    policy = RetryPolicy(9, timedelta(seconds=first), timedelta(seconds=most))
    pause = backoff(policy, count, jitter)
    whole = timedelta(seconds=min(first * 2**count / 2, most))
    assert whole / 2 <= pause <= whole
    assert backoff(policy, count + 1, jitter) >= pause


@dataclass
class Machine:
    """The processes of one attempt, as the machine knows them."""

    number: int
    stop_asked: bool = False
    exited: AttemptResult | None = None


class JobUnderCrashes(RuleBasedStateMachine):
    """Cancel, exit, crash and restart in every order, with the processes as a machine has them.

    What the service knows (`job`) survives its crash, as do processes (`machine`); the rest is done
    again from these two. An attempt must never run twice, and once everything comes to rest there
    is one end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.job = new_job(retries=2)
        self.now = START
        self.machine: Machine | None = None
        self.ran: list[int] = []
        self.ends = 0
        self.revoked: set[str] = set()

    def happen(self, happening: Happening) -> None:
        after = apply(self.job, happening)
        if after is self.job:
            return
        for event in events_of(self.job, after):
            self.ends += isinstance(event.data, training_events_pb2.JobEnded)
        for chore in chores_of(self.job, after):
            token = chore.detail.get("token_id")
            if token is not None:
                assert token not in self.revoked
                self.revoked.add(token)
        self.job = replace(after, revision=after.revision + 1)

    @rule(seconds=st.integers(0, 100))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.job.state.is_waiting)
    @rule()
    def queue_has_room(self) -> None:
        self.happen(TimeUp(self.now))
        self.happen(AttemptBegun(self.now))

    @precondition(lambda self: self.job.state.has_processes and self.machine is None)
    @rule()
    def processes_start(self) -> None:
        assert self.job.attempt is not None
        number = self.job.attempt.number
        if self.job.attempt.state is not JobState.STARTING or number in self.ran:
            return
        self.happen(AttemptPrepared(number, f"token-{number}"))
        self.ran.append(number)
        self.machine = Machine(number)

    @precondition(lambda self: self.machine is not None)
    @rule()
    def start_is_recorded(self) -> None:
        assert self.machine is not None
        self.happen(AttemptRunning(self.machine.number, self.now))

    @precondition(lambda self: self.machine is not None and self.machine.exited is None)
    @rule(result=results)
    def processes_end(self, result: AttemptResult) -> None:
        assert self.machine is not None
        self.machine.exited = result

    @precondition(lambda self: self.machine is not None and self.machine.exited is not None)
    @rule(jitter=st.floats(0, 1))
    def end_is_recorded(self, jitter: float) -> None:
        assert self.machine is not None and self.machine.exited is not None
        ended = AttemptEnded(self.machine.number, self.now, self.machine.exited, jitter)
        self.happen(ended)
        self.machine = None

    @precondition(lambda self: self.job.state.has_processes and self.machine is None)
    @rule()
    def service_restarts_before_processes_started(self) -> None:
        assert self.job.attempt is not None
        lost = AttemptResult(EndCause.LOST)
        self.happen(AttemptEnded(self.job.attempt.number, self.now, lost))

    @rule()
    def somebody_cancels(self) -> None:
        self.happen(CancelRequested(self.now, "somebody"))

    @invariant()
    def holds(self) -> None:
        check_shape(self.job)
        assert len(set(self.ran)) == len(self.ran)
        assert self.ends == self.job.state.is_final
        if self.machine is not None and not self.job.state.is_final:
            assert self.job.attempt is not None
            assert self.machine.number == self.job.attempt.number

    def teardown(self) -> None:
        """Let everything come to rest: there is exactly one end, and every token is revoked."""
        for _ in range(100):
            if self.job.state.is_final:
                break
            if self.job.state.is_waiting:
                self.now = max(self.now, self.job.retry_at or self.now)
                self.queue_has_room()
            elif self.machine is None:
                self.service_restarts_before_processes_started()
            else:
                self.machine.exited = self.machine.exited or AttemptResult(EndCause.EXITED, 1)
                self.end_is_recorded(0.0)
        assert self.ends == 1
        assert {attempt.token_id for attempt in self.job.attempts} - {""} == self.revoked


TestJobUnderCrashes = JobUnderCrashes.TestCase
TestJobUnderCrashes.settings = settings(max_examples=150, stateful_step_count=40)
