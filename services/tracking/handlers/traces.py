"""Use cases of traces: how they come, how they are read, changed and deleted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.tracking.domain.keys import check_text
from services.tracking.domain.lifecycle import LifecycleStage, Micros, micros_of
from services.tracking.domain.traces.span import Span, trace_id_of
from services.tracking.domain.traces.summary import has_totals, total_cost, total_usage
from services.tracking.domain.traces.trace import (
    MAX_LINKS,
    SPANS_LOCATION_TAG,
    SPANS_STORED,
    Trace,
    TraceState,
    check_pairs,
    told_by_client,
    told_by_spans,
    with_totals,
)
from services.tracking.errors import (
    ExperimentNotActive,
    ExperimentNotFound,
    InvalidValue,
    TagNotFound,
    TraceNotFound,
)
from services.tracking.handlers.access import Access
from services.tracking.ports.store import Store
from services.tracking.ports.traces import SpanStore, TraceKey
from tessera_kit.clock import Clock
from tessera_kit.ids import new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["Traces", "WholeTrace"]

_MOST_IDS: Final = 1000
_LONGEST_PROMPT: Final = 500
_DELETE_AT_ONCE: Final = 500
_FOREVER: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class WholeTrace:
    """A trace with its spans."""

    trace: Trace
    spans: Sequence[Span]
    """The earliest first."""


class Traces:
    """Takes in, reads, changes and deletes traces.

    Args:
        store: Where they are kept.
        spans: Where their spans are kept.
        access: Who may do what.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, spans: SpanStore, access: Access, clock: Clock) -> None:
        self._store = store
        self._spans = spans
        self._access = access
        self._clock = clock

    async def start(self, principal: Principal, told: Trace) -> Trace:
        """Store what a client says of a trace, whose spans may have come before or come after.

        Raises:
            ExperimentNotFound, ExperimentNotActive: Its experiment cannot take it.
            PermissionDenied: The caller may not write the experiment.
            InvalidKey, InvalidValue: A text breaks the rules, or it belongs to another experiment.
        """
        await self._must_take(principal, told.experiment_id)
        async with self._store.write() as work:
            before = (await work.traces.lock([told.trace_id])).get(told.trace_id)
            trace = told_by_client(before, told)
            await work.traces.put([trace])
            await work.commit()
        # A client that finds no place of the spans here would upload them as a file beside.
        return replace(trace, tags={**trace.tags, SPANS_LOCATION_TAG: SPANS_STORED})

    async def add_spans(
        self, principal: Principal, experiment_id: str, spans: Sequence[Span], run_id: str = ""
    ) -> None:
        """Store spans, all or none, and what they tell of their traces.

        Args:
            principal: Who sends them.
            experiment_id: Where traces belong that are not known yet.
            spans: Of any traces.
            run_id: A run to link the traces to whose root is among the spans.

        Raises:
            ExperimentNotFound, ExperimentNotActive: The experiment cannot take them.
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not write the experiment of one of the traces, or
                the run's.
            StoreBusy: Not now; sending them again is safe.
        """
        await self._must_take(principal, experiment_id)
        if run_id:
            await self._access.write_run(principal, run_id)
        of_traces: dict[str, list[Span]] = defaultdict(list)
        for span in spans:
            of_traces[trace_id_of(span.trace_id)].append(span)
        experiments = await self._homes(principal, of_traces, experiment_id)
        of_experiments: dict[str, list[Span]] = defaultdict(list)
        for trace_id, those in of_traces.items():
            of_experiments[experiments[trace_id]] += those
        # First the spans: should this process end in between, nobody was told that they are here,
        # and spans of a trace that nobody knows are seen by nobody.
        await self._spans.add(of_experiments)
        async with self._store.write() as work:
            known = await work.traces.lock(of_traces)
            after = [
                _told(known.get(trace_id), experiments[trace_id], those, run_id)
                for trace_id, those in of_traces.items()
            ]
            await work.traces.put(after)
            await work.commit()
        await self._count([one for one in after if has_totals(of_traces[one.trace_id])])

    async def get(self, principal: Principal, trace_id: str) -> Trace:
        """Return what is known of a trace.

        Raises:
            TraceNotFound: There is none.
            PermissionDenied: The caller may not read its experiment.
        """
        async with self._store.read() as view:
            trace = (await view.traces.get([trace_id])).get(trace_id)
        if trace is None:
            raise TraceNotFound(trace_id)
        await self._access.read(principal, trace.experiment_id)
        return trace

    async def get_many(
        self,
        principal: Principal,
        trace_ids: Sequence[str],
        experiment_ids: Collection[str] | None = None,
    ) -> list[Trace]:
        """Return those of the traces that the caller may read, in the order asked for.

        Args:
            principal: Who asks.
            trace_ids: At most 1,000.
            experiment_ids: The only experiments to return traces of; None for all.

        Raises:
            InvalidValue: Too many are asked for.
        """
        if len(trace_ids) > _MOST_IDS:
            raise InvalidValue(f"At most {_MOST_IDS} traces can be read at once.", "trace_ids")
        async with self._store.read() as view:
            found = await view.traces.get(trace_ids)
        homes = {one.experiment_id for one in found.values()}
        if experiment_ids is not None:
            homes &= set(experiment_ids)
        readable = await self._access.readable(principal, homes)
        return [
            found[one]
            for one in dict.fromkeys(trace_ids)
            if one in found and found[one].experiment_id in readable
        ]

    async def with_spans(self, traces: Sequence[Trace]) -> list[WholeTrace]:
        """Return traces that the caller was given, with their spans."""
        spans = await self._spans.of([_key(one) for one in traces])
        return [WholeTrace(one, spans.get(one.trace_id, ())) for one in traces]

    async def set_tag(self, principal: Principal, trace_id: str, key: str, value: str) -> None:
        """Set a tag of a trace.

        Raises:
            TraceNotFound: There is none.
            PermissionDenied: The caller may not write its experiment.
            InvalidKey, InvalidValue: The tag breaks the rules.
        """
        check_pairs({key: value}, "tag", "tags")
        await self._change(
            principal, trace_id, lambda trace: replace(trace, tags={**trace.tags, key: value})
        )

    async def delete_tag(self, principal: Principal, trace_id: str, key: str) -> None:
        """Remove a tag of a trace.

        Raises:
            TraceNotFound: There is no such trace, or it has no such tag.
            PermissionDenied: The caller may not write its experiment.
        """

        def without(trace: Trace) -> Trace:
            if key not in trace.tags:
                raise TagNotFound(key[:250], "trace", trace_id)
            return replace(
                trace, tags={other: value for other, value in trace.tags.items() if other != key}
            )

        await self._change(principal, trace_id, without)

    async def link_to_run(
        self, principal: Principal, trace_ids: Sequence[str], run_id: str
    ) -> None:
        """Link traces to a run; those that there are not, and links that there are, are passed by.

        Raises:
            InvalidValue: There are more than 100.
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not write the run's experiment, or a trace's.
        """
        if len(trace_ids) > MAX_LINKS:
            raise InvalidValue(
                f"Cannot link more than {MAX_LINKS} traces to a run in a single request. "
                f"Provided {len(trace_ids)} traces.",
                "trace_ids",
            )
        await self._access.write_run(principal, run_id)
        async with self._store.write() as work:
            known = await work.traces.lock(trace_ids)
            for experiment_id in sorted({one.experiment_id for one in known.values()}):
                await self._access.write(principal, experiment_id)
            await work.traces.put(
                [replace(one, runs=one.runs | {run_id}) for one in known.values()]
            )
            await work.commit()

    async def link_prompts(
        self, principal: Principal, trace_id: str, prompts: Collection[tuple[str, str]]
    ) -> None:
        """Note which prompt versions, by name and version, a trace used.

        Raises:
            TraceNotFound: There is none.
            PermissionDenied: The caller may not write its experiment.
            InvalidValue: A name is too long or holds a NUL.
        """
        used = {
            check_text(f"{name}/{version}", _LONGEST_PROMPT, "Prompt version", "prompt_versions")
            for name, version in prompts
        }
        await self._change(
            principal, trace_id, lambda trace: replace(trace, prompts=trace.prompts | used)
        )

    async def delete(
        self,
        principal: Principal,
        experiment_id: str,
        *,
        trace_ids: Sequence[str] = (),
        until: Micros | None = None,
        limit: int | None = None,
    ) -> int:
        """Delete traces of an experiment for good, by id, or the oldest that began by a time.

        Returns:
            How many there were.

        Raises:
            InvalidValue: Not exactly one of ids and time is given.
            ExperimentNotFound: There is no such experiment.
            PermissionDenied: The caller may not write it.
        """
        if bool(trace_ids) == (until is not None):
            raise InvalidValue(
                "Either `max_timestamp_millis` or `trace_ids` must be specified, but not both.",
                "max_timestamp_millis",
            )
        if limit is not None and (trace_ids or limit < 1):
            raise InvalidValue(
                "`max_traces` must be a positive integer, and `trace_ids` excludes it.",
                "max_traces",
            )
        await self._must_exist(experiment_id)
        await self._access.write(principal, experiment_id)
        if trace_ids:
            return await self._delete(experiment_id, trace_ids)
        left, deleted = limit or _FOREVER, 0
        while left > 0:
            async with self._store.read() as view:
                size = min(left, _DELETE_AT_ONCE)
                oldest = await view.traces.oldest(experiment_id, until=until or 0, limit=size)
            deleted += await self._delete(experiment_id, oldest)
            left -= size
            if len(oldest) < size:
                break
        return deleted

    async def begin(
        self,
        principal: Principal,
        experiment_id: str,
        *,
        at: Micros,
        tags: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> Trace:
        """Begin a trace whose client lets the server choose its id, as clients before 3.0 do.

        Raises:
            As `start`.
        """
        await self._must_take(principal, experiment_id)
        trace_id = f"tr-{new_id().replace('-', '')}"
        told = Trace(
            trace_id=trace_id,
            experiment_id=experiment_id,
            requested_at=at,
            tags=dict(tags),
            metadata=dict(metadata),
        )
        async with self._store.write() as work:
            await work.traces.put([trace := told_by_client(None, told)])
            await work.commit()
        return trace

    async def end(
        self,
        principal: Principal,
        trace_id: str,
        *,
        at: Micros,
        state: TraceState,
        tags: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> Trace:
        """End a trace that was begun; its tags and metadata are added to what is there.

        Raises:
            TraceNotFound: There is none.
            PermissionDenied: The caller may not write its experiment.
            InvalidKey, InvalidValue: A text breaks the rules.
        """

        def ended(trace: Trace) -> Trace:
            told = replace(
                trace,
                duration=max(0, at - trace.requested_at),
                state=state,
                tags=dict(tags),
                metadata=dict(metadata),
            )
            return told_by_client(trace, told)

        return await self._change(principal, trace_id, ended)

    async def _change(
        self, principal: Principal, trace_id: str, change: Callable[[Trace], Trace]
    ) -> Trace:
        trace = await self.get_to_write(principal, trace_id)
        async with self._store.write() as work:
            current = (await work.traces.lock([trace_id])).get(trace_id)
            if current is None:
                raise TraceNotFound(trace_id)
            await work.traces.put([trace := change(current)])
            await work.commit()
        return trace

    async def get_to_write(self, principal: Principal, trace_id: str) -> Trace:
        """As `get`, for callers who are going to change it.

        Raises:
            TraceNotFound: There is none.
            PermissionDenied: The caller may not write its experiment.
        """
        async with self._store.read() as view:
            trace = (await view.traces.get([trace_id])).get(trace_id)
        if trace is None:
            raise TraceNotFound(trace_id)
        await self._access.write(principal, trace.experiment_id)
        return trace

    async def _delete(self, experiment_id: str, trace_ids: Sequence[str]) -> int:
        async with self._store.write() as work:
            known = await work.traces.lock(trace_ids)
            gone = [one for one in known.values() if one.experiment_id == experiment_id]
            await work.traces.delete([one.trace_id for one in gone])
            await work.reviews.forget_items([one.trace_id for one in gone])
            await work.commit()
        await self._spans.delete([_key(one) for one in gone])
        return len(gone)

    async def _homes(
        self, principal: Principal, trace_ids: Collection[str], experiment_id: str
    ) -> dict[str, str]:
        """Return the experiment of each trace; the caller may write all of them."""
        async with self._store.read() as view:
            known = await view.traces.homes(trace_ids)
        homes = {one: known.get(one, experiment_id) for one in trace_ids}
        for home in sorted(set(homes.values()) - {experiment_id}):
            await self._access.write(principal, home)
        return homes

    async def _count(self, traces: Sequence[Trace]) -> None:
        """Note what all spans of traces together used and cost."""
        open_traces = [one for one in traces if not one.finalized]
        if not open_traces:
            return
        spans = await self._spans.of([_key(one) for one in open_traces])
        async with self._store.write() as work:
            current = await work.traces.lock([one.trace_id for one in open_traces])
            await work.traces.put(
                [
                    with_totals(one, total_usage(those), total_cost(those))
                    for one in current.values()
                    if (those := spans.get(one.trace_id))
                ]
            )
            await work.commit()

    async def _must_take(self, principal: Principal, experiment_id: str) -> None:
        """Return when the experiment is active and the caller may write it."""
        async with self._store.read() as view:
            experiment = await view.experiments.get(experiment_id)
        if experiment is None:
            raise _no_experiment(experiment_id)
        await self._access.write(principal, experiment_id)
        if experiment.stage is not LifecycleStage.ACTIVE:
            raise ExperimentNotActive(experiment_id)

    async def _must_exist(self, experiment_id: str) -> None:
        async with self._store.read() as view:
            if await view.experiments.get(experiment_id) is None:
                raise _no_experiment(experiment_id)

    def now(self) -> Micros:
        """Return the time."""
        return micros_of(self._clock.now())


def _told(before: Trace | None, experiment_id: str, spans: Sequence[Span], run_id: str) -> Trace:
    trace = told_by_spans(before, experiment_id, spans)
    has_root = any(not span.parent_id for span in spans)
    return replace(trace, runs=trace.runs | {run_id}) if run_id and has_root else trace


def _key(trace: Trace) -> TraceKey:
    return TraceKey(trace.experiment_id, trace.trace_id)


def _no_experiment(experiment_id: str) -> ExperimentNotFound:
    return ExperimentNotFound(
        f"No Experiment with id={experiment_id[:300]} exists",
        metadata={"experiment_id": experiment_id[:300]},
    )
