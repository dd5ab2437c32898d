"""A trace as a waterfall: which step ran when, inside which other, how it ended, what it held."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tessera.pages import document

__all__ = [
    "Row",
    "Shown",
    "Step",
    "StepEvent",
    "Trace",
    "arranged",
    "duration_text",
    "page",
    "shown",
    "trace_of",
]

_NANOS: Final = 1_000_000_000
_DEEPEST: Final = 12
"""Deeper steps are not set in further: they would leave the screen."""
_OWN: Final = ("mlflow.spanInputs", "mlflow.spanOutputs", "mlflow.spanType")
_HIDDEN: Final = frozenset({*_OWN, "mlflow.traceRequestId", "mlflow.experimentId"})


@dataclass(frozen=True, slots=True)
class StepEvent:
    """Something that happened during a step."""

    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One span."""

    span_id: str
    parent_id: str = ""
    """Empty for the root."""
    name: str
    started_at: int
    """Nanoseconds since 1970."""
    ended_at: int
    """Nanoseconds since 1970."""
    failed: bool = False
    message: str = ""
    """Why it failed."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[StepEvent] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a page shows."""

    trace_id: str
    name: str
    state: str
    tags: Mapping[str, str] = field(default_factory=dict)
    assessments: Sequence[tuple[str, str, str]] = ()
    """Name, value and rationale of what is said of it."""
    steps: Sequence[Step] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the waterfall."""

    step: Step
    depth: int
    """How many steps it runs inside of."""
    offset: float
    """Where it begins, as a share of the whole."""
    width: float
    """How long it takes, as a share of the whole."""

    @property
    def indent(self) -> int:
        """How far its name is set in; deep steps no further, they would leave the screen."""
        return min(self.depth, _DEEPEST)

    @property
    def took(self) -> str:
        """How long it took."""
        return duration_text(self.step.ended_at - self.step.started_at)

    @property
    def kind(self) -> str:
        """What sort of step it is, as `LLM` or `chat`; empty when it does not say."""
        attributes = self.step.attributes
        kind = attributes.get("mlflow.spanType") or attributes.get("gen_ai.operation.name") or ""
        return "" if kind == "UNKNOWN" else str(kind)

    @property
    def details(self) -> list[tuple[str, str]]:
        """What it held: inputs, outputs, then its attributes, as texts."""
        attributes = self.step.attributes
        shown = [
            (label, _pretty(attributes[key]))
            for label, key in (("inputs", _OWN[0]), ("outputs", _OWN[1]))
            if key in attributes
        ]
        return shown + [
            (key, _pretty(value)) for key, value in attributes.items() if key not in _HIDDEN
        ]


def arranged(steps: Sequence[Step]) -> list[Row]:
    """Return the lines of a waterfall: each step behind the one it runs inside of, by time.

    A step whose parent is not there, or whose parents form a ring, stands at the left.
    """
    if not steps:
        return []
    begun = min(step.started_at for step in steps)
    whole = max(1, max(step.ended_at for step in steps) - begun)
    known = {step.span_id for step in steps}
    inside: dict[str, list[Step]] = {}
    for step in sorted(steps, key=lambda one: (one.started_at, one.span_id)):
        parent = step.parent_id if step.parent_id in known else ""
        inside.setdefault(parent, []).append(step)
    seen: set[str] = set()
    ordered = list(_below("", inside, seen))
    # What is left hangs on a ring.
    for step in steps:
        if step.span_id not in seen:
            ordered += _down(step, 0, inside, seen)
    return [
        Row(
            step,
            depth,
            (step.started_at - begun) / whole,
            max(0, step.ended_at - step.started_at) / whole,
        )
        for step, depth in ordered
    ]


def _below(
    parent: str, inside: Mapping[str, Sequence[Step]], seen: set[str]
) -> Iterator[tuple[Step, int]]:
    for step in inside.get(parent, ()):
        yield from _down(step, 0, inside, seen)


def _down(
    step: Step, depth: int, inside: Mapping[str, Sequence[Step]], seen: set[str]
) -> Iterator[tuple[Step, int]]:
    """A loop over a stack, as traces may be thousands of steps deep."""
    stack = [(step, depth)]
    while stack:
        step, depth = stack.pop()
        if step.span_id in seen:
            continue
        seen.add(step.span_id)
        yield step, depth
        stack += [(one, depth + 1) for one in reversed(inside.get(step.span_id, ()))]


def page(trace: Trace) -> str:
    """Return the waterfall as one HTML document; everything that the trace holds is escaped."""
    return document.render(
        "trace.html.j2",
        trace=trace,
        policy=document.policy(),
        rows=arranged(trace.steps),
        shown=shown(trace.steps),
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """What a trace's steps are together."""

    began: datetime
    took: str
    failed: int
    """How many of the steps failed."""


def shown(steps: Sequence[Step]) -> Shown:
    """Return when steps began, how long they took together, and how many failed."""
    begun = min((step.started_at for step in steps), default=0)
    ended = max((step.ended_at for step in steps), default=begun)
    began = datetime.fromtimestamp(begun // _NANOS, UTC)
    return Shown(began, duration_text(ended - begun), sum(step.failed for step in steps))


def duration_text(nanoseconds: int) -> str:
    """Return a length of time as people read it: `850 µs`, `12.3 ms`, `4.56 s`, `3 min 2 s`."""
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1000:.0f} µs"
    if nanoseconds < _NANOS:
        return f"{nanoseconds / 1_000_000:.3g} ms"
    if nanoseconds < 60 * _NANOS:
        return f"{nanoseconds / _NANOS:.3g} s"
    minutes, rest = divmod(nanoseconds // _NANOS, 60)
    return f"{minutes} min {rest} s"


def trace_of(message: Mapping[str, Any]) -> Trace:
    """Return the trace of MLflow's `Trace` message as JSON, which `GET traces/get` answers."""
    info = message["trace_info"]
    tags: Mapping[str, str] = info.get("tags", {})
    return Trace(
        trace_id=info["trace_id"],
        name=tags.get("mlflow.traceName", ""),
        state=info.get("state", ""),
        tags={key: value for key, value in tags.items() if not key.startswith("mlflow.")},
        assessments=[_said(one) for one in info.get("assessments", [])],
        steps=[_step(span) for span in message.get("spans", [])],
    )


def _said(message: Mapping[str, Any]) -> tuple[str, str, str]:
    told: Mapping[str, Any] = next(
        (message[kind] for kind in ("feedback", "expectation", "issue") if kind in message), {}
    )
    value = told.get("value", told.get("serialized_value", {}).get("value", told.get("issue_name")))
    return message["assessment_name"], _pretty(value), message.get("rationale", "")


def _step(span: Mapping[str, Any]) -> Step:
    status = span.get("status", {})
    started_at = int(span.get("start_time_unix_nano", 0))
    return Step(
        span_id=_hex(span.get("span_id", "")),
        parent_id=_hex(span.get("parent_span_id", "")),
        name=span.get("name", ""),
        started_at=started_at,
        ended_at=max(started_at, int(span.get("end_time_unix_nano", 0))),
        failed=status.get("code") in {2, "STATUS_CODE_ERROR"},
        message=status.get("message", ""),
        attributes=_attributes(span),
        events=[StepEvent(one.get("name", ""), _attributes(one)) for one in span.get("events", [])],
    )


def _hex(text: str) -> str:
    return b64decode(text).hex()


def _attributes(message: Mapping[str, Any]) -> dict[str, Any]:
    return {one["key"]: _value(one.get("value", {})) for one in message.get("attributes", [])}


def _value(value: Mapping[str, Any]) -> Any:
    for kind, held in value.items():
        match kind:
            case "array_value":
                return [_value(one) for one in held.get("values", [])]
            case "kvlist_value":
                return {one["key"]: _value(one.get("value", {})) for one in held.get("values", [])}
            case "int_value":
                return int(held)
            case _:
                return held
    return None


def _pretty(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, indent=2)
