"""What people are asked about traces: questions, queues of traces to look at, and issues found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from services.tracking.domain.lifecycle import Micros
from services.tracking.errors import InvalidValue

__all__ = [
    "DEFAULT_QUESTION",
    "SEVERITIES",
    "Issue",
    "LabelSchema",
    "ReviewItem",
    "ReviewQueue",
    "check_input",
    "check_issue",
    "check_items",
    "check_queue_name",
    "check_schema",
    "checked_users",
    "unchanged_kind",
]

DEFAULT_QUESTION: Final = "Feedback"
SCHEMA_TYPES: Final = ("FEEDBACK", "EXPECTATION")
QUEUE_TYPES: Final = ("USER", "CUSTOM")
STATUSES: Final = ("PENDING", "COMPLETE", "DECLINED")
ISSUE_STATUSES: Final = ("pending", "rejected", "resolved")
SEVERITIES: Final = ("not_an_issue", "low", "medium", "high")
"""From the least severe on."""
_LONGEST_NAME: Final = 250
_LONGEST_TEXT: Final = 1000
_LONGEST_LABEL: Final = 64
_MOST_OPTIONS: Final = 10
_MOST_USERS: Final = 10
_LONGEST_SCHEMA_ID: Final = 36
_LONGEST_ITEM_ID: Final = 50
_LONGEST_ISSUE: Final = 20_000
_MOST_LISTED: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSchema:
    """A question that reviewers answer about a trace."""

    id: str
    experiment_id: str
    name: str
    """Also the name of the assessments that answer it; unique in the experiment."""
    type: str
    """One of `SCHEMA_TYPES`."""
    input: dict[str, Any]
    """How it is answered, as MLflow's `LabelSchemaInput` in JSON: one kind with its settings."""
    instruction: str | None = None
    enable_comment: bool = False
    is_default: bool = False
    """Whether it is the one that every experiment has; it is neither changed nor deleted."""
    created_by: str = ""
    created_at: Micros
    updated_at: Micros

    @property
    def key(self) -> str:
        """What is unique in the experiment."""
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewQueue:
    """Traces that some people are to look at, with the questions that they answer."""

    id: str
    experiment_id: str
    name: str
    type: str
    """One of `QUEUE_TYPES`: a user's own queue asks all of the experiment's questions."""
    users: tuple[str, ...] = ()
    schema_ids: tuple[str, ...] = ()
    created_by: str = ""
    created_at: Micros
    updated_at: Micros

    @property
    def key(self) -> str:
        """What is unique in the experiment: names do not tell cases apart."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewItem:
    """A trace in a queue."""

    queue_id: str
    item_id: str
    """The trace's id."""
    status: str = STATUSES[0]
    completed_by: str | None = None
    completed_at: Micros | None = None
    created_at: Micros
    updated_at: Micros


class IssuePlace(NamedTuple):
    """Where an issue stands in a listing, which begins with the greatest."""

    rank: int
    """How severe it is."""
    traces: int
    """In how many traces it was found; 0 where nobody asked."""
    created_at: Micros
    """When it was created."""
    id: str
    """Its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """Something wrong that was found in traces; assessments of the kind issue name it by its id."""

    id: str
    experiment_id: str
    name: str
    description: str
    status: str = ISSUE_STATUSES[0]
    severity: str | None = None
    root_causes: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    source_run_id: str | None = None
    created_by: str | None = None
    created_at: Micros
    updated_at: Micros
    trace_count: int | None = field(default=None, compare=False)
    """How many traces it was found in; None where nobody asked."""

    @property
    def key(self) -> str:
        """What is unique in the experiment: nothing but the issue."""
        return self.id

    @property
    def rank(self) -> int:
        """How severe it is; -1 when nobody said."""
        return -1 if self.severity is None else SEVERITIES.index(self.severity)

    @property
    def place(self) -> IssuePlace:
        """Where it stands in a listing."""
        return IssuePlace(self.rank, self.trace_count or 0, self.created_at, self.id)


def check_schema(schema: LabelSchema) -> LabelSchema:
    """Return a question unchanged.

    Raises:
        InvalidValue: One of its fields breaks the rules.
    """
    _text("name", schema.name, _LONGEST_NAME)
    if schema.name.strip().lower() == DEFAULT_QUESTION.lower():
        raise InvalidValue(f"`{schema.name}` is the name of the experiment's own question", "name")
    _one_of("type", schema.type, SCHEMA_TYPES)
    if schema.instruction is not None and len(schema.instruction) > _LONGEST_TEXT:
        raise InvalidValue(f"`instruction` has at most {_LONGEST_TEXT} characters", "instruction")
    check_input(schema.input)
    return schema


def check_input(asked: dict[str, Any]) -> None:
    """Return when a question can be answered that way.

    Raises:
        InvalidValue: No kind is given, or its settings break the rules.
    """
    kind, settings = next(iter(asked.items()), ("", {}))
    check = _INPUTS.get(kind)
    if check is None:
        raise InvalidValue(f"`input` must be one of {', '.join(_INPUTS)}", "input")
    check(settings)


def _check_pass_fail(settings: Mapping[str, Any]) -> None:
    labels = [str(settings.get(name, "")) for name in ("positive_label", "negative_label")]
    for label in labels:
        _text("input.pass_fail", label, _LONGEST_LABEL)
    if labels[0] == labels[1]:
        raise InvalidValue("the labels of `pass_fail` must differ", "input.pass_fail")


def _check_categorical(settings: Mapping[str, Any]) -> None:
    options: list[str] = settings.get("options", [])
    if not 1 <= len(options) <= _MOST_OPTIONS or len(set(options)) < len(options):
        text = f"`options` must be 1 to {_MOST_OPTIONS} texts, none twice"
        raise InvalidValue(text, "input.categorical.options")
    for option in options:
        _text("input.categorical.options", option, _LONGEST_LABEL)


def _check_numeric(settings: Mapping[str, Any]) -> None:
    # JSON has no infinities: protobuf writes them as texts.
    bounds = [float(settings[name]) for name in ("min_value", "max_value") if name in settings]
    if not all(math.isfinite(one) for one in bounds):
        raise InvalidValue("the bounds of `numeric` must be finite", "input.numeric")
    if len(bounds) == 2 and bounds[0] >= bounds[1]:
        raise InvalidValue("`min_value` must be less than `max_value`", "input.numeric")


def _check_free_text(settings: Mapping[str, Any]) -> None:
    if settings.get("max_length", 1) < 1:
        raise InvalidValue("`max_length` must be at least 1", "input.text.max_length")


_INPUTS: Final[Mapping[str, Callable[[Mapping[str, Any]], None]]] = {
    "pass_fail": _check_pass_fail,
    "categorical": _check_categorical,
    "numeric": _check_numeric,
    "text": _check_free_text,
}


def unchanged_kind(was: dict[str, Any], new: dict[str, Any]) -> None:
    """Return when answers that were given to `was` still fit `new`.

    Raises:
        InvalidValue: It is another kind of input, or one answer became several or vice versa.
    """
    if was.keys() != new.keys():
        raise InvalidValue("the kind of a question's input does not change", "input")
    several = [one.get("categorical", {}).get("multi_select", False) for one in (was, new)]
    if several[0] != several[1]:
        raise InvalidValue("`multi_select` of a question does not change", "input.categorical")


def check_queue_name(name: str) -> str:
    """Return the name of a queue of several people, without blanks around it.

    Raises:
        InvalidValue: It is empty, too long, or reserved.
    """
    stripped = name.strip()
    _text("name", stripped, _LONGEST_NAME)
    if stripped.lower() == "default":
        raise InvalidValue(f"`{stripped}` is a reserved name", "name")
    return stripped


def checked_users(users: Sequence[str]) -> tuple[str, ...]:
    """Return names of users in lower case, each once.

    Raises:
        InvalidValue: One is empty or too long, or there are more than 10.
    """
    found = tuple(dict.fromkeys(one.strip().lower() for one in users))
    for one in found:
        _text("users", one, _LONGEST_NAME)
    if len(found) > _MOST_USERS:
        raise InvalidValue(f"a queue has at most {_MOST_USERS} users, not {len(found)}", "users")
    return found


def checked_schema_ids(schema_ids: Sequence[str]) -> tuple[str, ...]:
    """Return ids of questions, each once.

    Raises:
        InvalidValue: One is empty or too long.
    """
    found = tuple(dict.fromkeys(one.strip() for one in schema_ids))
    for one in found:
        _text("schema_ids", one, _LONGEST_SCHEMA_ID)
    return found


def check_items(item_ids: Sequence[str]) -> tuple[str, ...]:
    """Return ids of traces, each once.

    Raises:
        InvalidValue: There are none or more than 1,000, or one is empty or too long.
    """
    found = tuple(dict.fromkeys(one.strip() for one in item_ids))
    if not 1 <= len(found) <= 1000:
        raise InvalidValue("`item_ids` must be 1 to 1000 ids", "item_ids")
    for one in found:
        _text("item_ids", one, _LONGEST_ITEM_ID)
    return found


def check_issue(issue: Issue) -> Issue:
    """Return an issue unchanged.

    Raises:
        InvalidValue: One of its fields breaks the rules.
    """
    _text("name", issue.name, _LONGEST_NAME)
    _text("description", issue.description, _LONGEST_ISSUE)
    _one_of("status", issue.status, ISSUE_STATUSES)
    if issue.severity is not None:
        _one_of("severity", issue.severity, SEVERITIES)
    for name, listed in (("root_causes", issue.root_causes), ("categories", issue.categories)):
        if len(listed) > _MOST_LISTED or any(len(one) > _LONGEST_ISSUE for one in listed):
            raise InvalidValue(f"`{name}` has at most {_MOST_LISTED} texts", name)
    return issue


def _text(name: str, value: str, longest: int) -> None:
    if not 1 <= len(value) <= longest:
        raise InvalidValue(f"`{name}` must have 1 to {longest} characters", name)


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidValue(f"`{name}` must be one of {', '.join(known)}", name)
