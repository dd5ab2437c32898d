"""Assessments: what a person, a judge or code says of a trace, and how it may change."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from services.tracking.domain.keys import check_text
from services.tracking.domain.lifecycle import Micros
from services.tracking.errors import AssessmentNotFound, InvalidUpdate, InvalidValue

__all__ = [
    "Assessment",
    "AssessmentChange",
    "AssessmentKind",
    "change_assessment",
    "check_assessment",
    "number_of",
    "text_of",
    "with_assessment",
    "without_assessment",
]

_NAME_LIMIT: Final = 250
_TEXT_LIMIT: Final = 65_536
_VALUE_LIMIT: Final = 1 << 20


class AssessmentKind(enum.StrEnum):
    """What an assessment is."""

    FEEDBACK = "feedback"
    """How good it was."""
    EXPECTATION = "expectation"
    """What it should have been."""
    ISSUE = "issue"
    """A known problem that it shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What somebody says of a trace or of one of its spans."""

    assessment_id: str
    trace_id: str
    name: str
    kind: AssessmentKind
    value: Any = None
    """Any JSON value; an issue's name."""
    format: str = ""
    """How an expectation's text in `value` is serialized; empty when it is the value itself."""
    error: Mapping[str, str] | None = None
    """Why a judge failed: `error_code`, `error_message`, `stack_trace`."""
    rationale: str | None = None
    source_type: str = ""
    """HUMAN, LLM_JUDGE or CODE."""
    source_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    span_id: str | None = None
    """The span that it is about; None for the whole trace."""
    overrides: str | None = None
    """The assessment that it takes the place of."""
    valid: bool = True
    """Whether no other one took its place."""
    created_at: Micros
    updated_at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessmentChange:
    """What an update sets; None leaves a field as it is."""

    kind: AssessmentKind | None = None
    """What the new value is; None when the value stays."""
    value: Any = None
    format: str = ""
    error: Mapping[str, str] | None = None
    name: str | None = None
    rationale: str | None = None
    metadata: Mapping[str, str] | None = None
    """Added to what is there."""


def text_of(value: Any) -> str | None:
    """Return an assessment's value as searches for texts see it: a text itself, else JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def number_of(value: Any) -> float | None:
    """Return an assessment's value as searches for numbers see it; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def check_assessment(assessment: Assessment) -> Assessment:
    """Return `assessment` unchanged when it may be stored.

    Raises:
        InvalidValue: Its name is missing, or a text is too long.
    """
    if not assessment.name:
        raise InvalidValue("Assessment name must be provided.", "assessment.assessment_name")
    check_text(assessment.name, _NAME_LIMIT, "Assessment name", "assessment.assessment_name")
    if isinstance(assessment.value, str):
        check_text(assessment.value, _VALUE_LIMIT, "Assessment value", "assessment.value")
    check_text(assessment.rationale or "", _TEXT_LIMIT, "Rationale", "assessment.rationale")
    for key, value in assessment.metadata.items():
        check_text(key, _NAME_LIMIT, "Metadata key", "assessment.metadata")
        check_text(value, _TEXT_LIMIT, "Metadata value", "assessment.metadata")
    return assessment


def with_assessment(those: Sequence[Assessment], new: Assessment) -> list[Assessment]:
    """Return a trace's assessments with one more; one that it overrides is no longer valid.

    Raises:
        AssessmentNotFound: The one that it overrides is not there.
        InvalidValue: It breaks the rules.
    """
    check_assessment(new)
    if new.overrides and all(one.assessment_id != new.overrides for one in those):
        raise AssessmentNotFound(new.trace_id, new.overrides)
    kept = [
        replace(one, valid=False) if one.assessment_id == new.overrides else one
        for one in those
        if one.assessment_id != new.assessment_id
    ]
    return [*kept, new]


def without_assessment(those: Sequence[Assessment], assessment_id: str) -> list[Assessment]:
    """Return a trace's assessments without one; what it overrode is valid again."""
    gone = next((one for one in those if one.assessment_id == assessment_id), None)
    if gone is None:
        return list(those)
    return [
        replace(one, valid=True) if one.assessment_id == gone.overrides else one
        for one in those
        if one is not gone
    ]


def change_assessment(
    assessment: Assessment, change: AssessmentChange, *, now: Micros
) -> Assessment:
    """Return the assessment with a change made.

    Raises:
        InvalidUpdate: The new value is of another kind.
        InvalidValue: A text breaks the rules.
    """
    if change.kind is not None and change.kind is not assessment.kind:
        raise InvalidUpdate(
            f"Cannot update {change.kind} value on a {assessment.kind.capitalize()} assessment.",
            f"assessment.{change.kind}",
        )
    if change.kind is not None:
        assessment = replace(
            assessment, value=change.value, format=change.format, error=change.error
        )
    return check_assessment(
        replace(
            assessment,
            name=assessment.name if change.name is None else change.name,
            rationale=assessment.rationale if change.rationale is None else change.rationale,
            metadata={**assessment.metadata, **(change.metadata or {})},
            updated_at=now,
        )
    )
