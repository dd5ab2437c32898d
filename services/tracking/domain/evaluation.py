"""Evaluation data sets: examples with what is expected of them; and scorers, which judge."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from services.tracking.domain.keys import check_text
from services.tracking.domain.lifecycle import Micros
from services.tracking.errors import InvalidKey, InvalidValue

__all__ = [
    "EvaluationDataset",
    "EvaluationRecord",
    "ScorerVersion",
    "check_dataset",
    "check_scorer",
    "input_hash",
    "merged_record",
    "new_record",
    "schema_with",
]

USER_TAG: Final = "mlflow.user"
_NAME_LIMIT: Final = 255
_KEY_LIMIT: Final = 250
_VALUE_LIMIT: Final = 5000
_SCORER_NAME_LIMIT: Final = 250
_SCORER_LIMIT: Final = 1 << 20
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDataset:
    """Examples to evaluate on."""

    dataset_id: str
    name: str
    """Need not be unique."""
    owner: str
    """The principal that created it."""
    created_by: str | None = None
    """Who created it, by what the client says."""
    updated_by: str | None = None
    """Who changed it last, by what the client says."""
    created_at: Micros
    updated_at: Micros
    schema: Mapping[str, Any] | None = None
    """Fields of inputs, outputs and expectations with their types; None while it is empty."""
    tags: Mapping[str, str] = field(default_factory=dict)
    experiment_ids: tuple[str, ...] = ()
    """Experiments that it is for, whose grants decide who may use it."""
    records: int = 0
    """How many examples it has."""

    @property
    def digest(self) -> str:
        """Eight characters that change when it changes."""
        state = f"{self.name}:{self.updated_at}"
        return hashlib.sha256(state.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """One example."""

    record_id: str
    dataset_id: str
    inputs: Mapping[str, Any]
    """What is asked; two records of one data set never have the same."""
    outputs: Any = None
    """What was answered."""
    expectations: Mapping[str, Any] | None = None
    """What should be answered."""
    tags: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, Any] | None = None
    """Where it is from, as a trace: `source_type` and `source_data`."""
    created_by: str | None = None
    updated_by: str | None = None
    created_at: Micros
    updated_at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerVersion:
    """One version of a scorer."""

    experiment_id: str
    name: str
    version: int
    """From 1 on."""
    scorer_id: str
    """The same for all versions of one name."""
    serialized: str
    """JSON, made and read by clients; it is never run here."""
    created_at: Micros


def check_dataset(name: str, tags: Mapping[str, str]) -> None:
    """Check a data set's name and tags.

    Raises:
        InvalidKey, InvalidValue: One breaks the rules.
    """
    if not name.strip():
        raise InvalidValue("Dataset name cannot be empty or whitespace only.", "name")
    check_text(name, _NAME_LIMIT, "Dataset name", "name")
    for key, value in tags.items():
        if not key or len(key) > _KEY_LIMIT or "\x00" in key:
            raise InvalidKey(f"Invalid tag key: '{key[:_KEY_LIMIT]}'.", "tags")
        check_text(value, _VALUE_LIMIT, "Tag value", "tags")


def input_hash(inputs: Mapping[str, Any]) -> str:
    """Return what is the same for the same inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def new_record(
    told: Mapping[str, Any], *, dataset_id: str, record_id: str, now: Micros
) -> EvaluationRecord:
    """Return the record of a new example.

    Raises:
        InvalidValue: It is not made as an example is.
    """
    tags = _tags(told)
    user = tags.get(USER_TAG)
    return EvaluationRecord(
        record_id=record_id,
        dataset_id=dataset_id,
        inputs=_mapping(told, "inputs") or {},
        outputs=told.get("outputs"),
        expectations=_mapping(told, "expectations"),
        tags=tags,
        source=_mapping(told, "source"),
        created_by=user,
        updated_by=user,
        created_at=now,
        updated_at=now,
    )


def merged_record(
    record: EvaluationRecord, told: Mapping[str, Any], *, now: Micros
) -> EvaluationRecord:
    """Return a record after the same inputs came again: what is new is added or replaces.

    Raises:
        InvalidValue: It is not made as an example is.
    """
    tags, expectations = _tags(told), _mapping(told, "expectations")
    return replace(
        record,
        outputs=told.get("outputs", record.outputs),
        expectations=(
            {**(record.expectations or {}), **expectations} if expectations else record.expectations
        ),
        tags={**record.tags, **tags},
        updated_by=tags.get(USER_TAG, record.updated_by),
        updated_at=now,
    )


def schema_with(
    schema: Mapping[str, Any] | None, records: Iterable[EvaluationRecord]
) -> Mapping[str, Any]:
    """Return a schema with the fields that records have and it lacks."""
    known: dict[str, Any] = {"inputs": {}, "outputs": {}, "expectations": {}, "version": "1.0"}
    known.update(json.loads(json.dumps(schema or {})))
    for record in records:
        for part in ("inputs", "outputs", "expectations"):
            value = getattr(record, part)
            if isinstance(value, Mapping) and isinstance(known[part], dict):
                for key, one in value.items():
                    known[part].setdefault(key, _type_of(one))
            elif value is not None and not known[part]:
                known[part] = _type_of(value)
    return known


def check_scorer(name: str, serialized: str) -> None:
    """Check a scorer's name and content.

    Raises:
        InvalidValue: The name is empty, too long or holds control characters, or the content is no
            JSON object.
    """
    if not name.strip() or _CONTROL.search(name):
        raise InvalidValue(f"Invalid scorer name: '{name[:_SCORER_NAME_LIMIT]}'", "name")
    check_text(name, _SCORER_NAME_LIMIT, "Scorer name", "name")
    check_text(serialized, _SCORER_LIMIT, "Serialized scorer", "serialized_scorer")
    try:
        is_object = isinstance(json.loads(serialized), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise InvalidValue("The serialized scorer must be a JSON object.", "serialized_scorer")


def _mapping(told: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    value = told.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidValue(f"a record's {name} must be a JSON object", f"records.{name}")
    return value


def _tags(told: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in (_mapping(told, "tags") or {}).items()}


_TYPES: Final = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "float"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


def _type_of(value: Any) -> str:
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "null")
