"""What spans tell of their trace: when, how it ended, of whom, with which previews and totals.

Keys are MLflow's and those of the GenAI semantic conventions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.traces.span import Span, SpanStatus

__all__ = ["SpanSummary", "has_totals", "summary_of", "total_cost", "total_usage"]

_INPUTS: Final = ("mlflow.spanInputs", "gen_ai.input.messages")
_OUTPUTS: Final = ("mlflow.spanOutputs", "gen_ai.output.messages")
_SESSION: Final = ("session.id", "gen_ai.conversation.id")
_USER: Final = ("user.id",)
_TAG_PREFIX: Final = "mlflow.traceTag."
_NOT_TAGS: Final = ("telemetry.sdk.", "mlflow.")
_USAGE: Final = "mlflow.chat.tokenUsage"
_COST: Final = "mlflow.llm.cost"
_GENAI_INPUT: Final = "gen_ai.usage.input_tokens"
_GENAI_OUTPUT: Final = "gen_ai.usage.output_tokens"
_PREVIEW: Final = 1000
_KEY_LIMIT: Final = 250
_VALUE_LIMIT: Final = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSummary:
    """What some spans of a trace tell of it."""

    started_at: Micros
    ended_at: Micros
    failed: bool | None
    """Whether the root span failed; None when it is not among them."""
    session: str
    user: str
    request_preview: str | None
    response_preview: str | None
    tags: Mapping[str, str]
    """Tags that the trace's maker put on the root span."""
    resource_tags: Mapping[str, str]
    """What produced the spans."""


def summary_of(spans: Sequence[Span]) -> SpanSummary:
    """Return what spans of one trace tell; at least one."""
    root = next((span for span in spans if not span.parent_id), None)
    attributes: Mapping[str, str] = root.attributes if root else {}
    return SpanSummary(
        started_at=min(span.started_at for span in spans) // 1000,
        ended_at=max(span.ended_at for span in spans) // 1000,
        failed=None if root is None else root.status == SpanStatus.ERROR,
        session=_first(spans, _SESSION),
        user=_first(spans, _USER),
        request_preview=_preview(attributes, _INPUTS, "user"),
        response_preview=_preview(attributes, _OUTPUTS, "assistant"),
        tags=_tags(
            (key.removeprefix(_TAG_PREFIX), value)
            for key, value in attributes.items()
            if key.startswith(_TAG_PREFIX)
        ),
        resource_tags=_tags(
            (key, value)
            for key, value in next((one.resource for one in spans if one.resource), {}).items()
            if not key.startswith(_NOT_TAGS)
        ),
    )


def has_totals(spans: Iterable[Span]) -> bool:
    """Whether a span says what it used or cost."""
    return any(_usage_of(span) or _numbers(span, _COST) for span in spans)


def total_usage(spans: Sequence[Span]) -> dict[str, float]:
    """Return how many tokens the spans of a trace used; empty when none says."""
    return _total(spans, {span.span_id: _usage_of(span) for span in spans})


def total_cost(spans: Sequence[Span]) -> dict[str, float]:
    """Return what the spans of a trace cost, in US dollars; empty when none says."""
    return _total(spans, {span.span_id: _numbers(span, _COST) for span in spans})


def _total(spans: Sequence[Span], told: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Add up what spans tell; a span whose ancestor tells is part of what that one tells."""
    parents = {span.span_id: span.parent_id for span in spans}
    covered: dict[str, bool] = {"": False}
    total: dict[str, float] = {}
    for span in spans:
        if told[span.span_id] and not _is_covered(span.parent_id, parents, told, covered):
            for key, value in told[span.span_id].items():
                total[key] = total.get(key, 0) + value
    return total


def _is_covered(
    span_id: str,
    parents: Mapping[str, str],
    told: Mapping[str, Mapping[str, float]],
    known: dict[str, bool],
) -> bool:
    """Whether the span or an ancestor tells; a loop, as traces may be thousands of levels deep."""
    path: list[str] = []
    while span_id not in known:
        path.append(span_id)
        # Marked first: parents that form a ring must not turn it into an endless loop.
        known[span_id] = bool(told.get(span_id))
        if known[span_id]:
            break
        span_id = parents.get(span_id, "")
    covered = known[span_id]
    for one in path:
        known[one] = covered
    return covered


def _usage_of(span: Span) -> dict[str, float]:
    own = _numbers(span, _USAGE)
    if own:
        return own
    asked, answered = (_number(span.attributes.get(key)) for key in (_GENAI_INPUT, _GENAI_OUTPUT))
    if asked is None and answered is None:
        return {}
    return {
        "input_tokens": asked or 0,
        "output_tokens": answered or 0,
        "total_tokens": (asked or 0) + (answered or 0),
    }


def _numbers(span: Span, key: str) -> dict[str, float]:
    found = _json(span.attributes.get(key, ""))
    if not isinstance(found, dict):
        return {}
    return {
        str(name): value
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _first(spans: Sequence[Span], keys: Sequence[str]) -> str:
    for span in spans:
        for key in keys:
            if value := span.attributes.get(key, "").replace("\x00", ""):
                return value[:_KEY_LIMIT]
    return ""


def _tags(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {
        key: value[:_VALUE_LIMIT]
        for key, value in pairs
        if key and len(key) <= _KEY_LIMIT and "\x00" not in key + value
    }


def _preview(attributes: Mapping[str, str], keys: Sequence[str], role: str) -> str | None:
    text = next((attributes[key] for key in keys if attributes.get(key)), None)
    if text is None:
        return None
    text = (_last_message(_json(text), role) or text).replace("\x00", "")
    return text if len(text) <= _PREVIEW else text[: _PREVIEW - 3] + "..."


def _last_message(told: Any, role: str) -> str:
    """Return the text of a chat's last message of a role; empty where it is no chat."""
    messages = told
    if isinstance(told, dict):
        choices = told.get("choices")
        messages = told.get("messages") or (
            [choice.get("message") for choice in choices if isinstance(choice, dict)]
            if isinstance(choices, list)
            else []
        )
    if not isinstance(messages, list):
        return ""
    chat = [one for one in messages if isinstance(one, dict) and "role" in one]
    those = [one for one in chat if one["role"] == role] or chat
    content = those[-1].get("content") if those else ""
    if isinstance(content, list):
        content = next(
            (part.get("text") for part in content if isinstance(part, dict) and part.get("text")),
            "",
        )
    return content if isinstance(content, str) else ""


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None
