"""What logged and registered models have in the fields of a filter or an order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from services.tracking.domain.logged_model import LoggedModel, ModelMetric
from services.tracking.domain.registry import RegisteredModel, RegistryVersion
from services.tracking.domain.reviews import Issue
from services.tracking.domain.search.evaluate import Values, position_of
from services.tracking.domain.search.syntax import Field, FieldKind, OrderKey

__all__ = [
    "in_order",
    "issue_values",
    "model_values",
    "registered_model_values",
    "registry_version_values",
]

T = TypeVar("T")


def model_values(model: LoggedModel, datasets: Collection[tuple[str, str]] = ()) -> Values:
    """Return how to look up what a logged model has in a field.

    Args:
        model: The model.
        datasets: Names and digests of the data sets that metrics must be on; any when empty.
    """
    attributes = {
        "model_id": model.model_id,
        "name": model.name,
        "model_type": model.model_type,
        "status": str(model.status),
        "experiment_id": model.experiment_id,
        "source_run_id": model.source_run_id,
        "creation_time": model.created_at,
        "last_updated_time": model.updated_at,
    }

    def values(field: Field) -> Sequence[Any]:
        if field.kind is FieldKind.METRIC:
            return [
                one.point.value
                for one in model.metrics
                if one.point.key == field.key and _is_on(one, datasets)
            ]
        if field.kind is FieldKind.PARAM:
            return _present(model.params.get(field.key))
        if field.kind is FieldKind.TAG:
            return _present(model.tags.get(field.key))
        return _present(attributes[field.key])

    return values


def _is_on(metric: ModelMetric, datasets: Collection[tuple[str, str]]) -> bool:
    return not datasets or any(
        metric.dataset_name == name and digest in {"", metric.dataset_digest}
        for name, digest in datasets
    )


def issue_values(issue: Issue) -> Values:
    """Return how to look up what an issue has in a field."""
    attributes = {"status": issue.status, "source_run_id": issue.source_run_id}
    return lambda field: _present(attributes[field.key])


def registered_model_values(name: str, model: RegisteredModel) -> Values:
    """Return how to look up what a registered model, by its users' name, has in a field."""
    attributes = {
        "name": name,
        "creation_timestamp": model.created_at,
        "last_updated_timestamp": model.updated_at,
    }
    return lambda field: _of_tags(field, model.tags, attributes)


def registry_version_values(name: str, version: RegistryVersion) -> Values:
    """Return how to look up what a version of a registered model has in a field."""
    attributes = {
        "name": name,
        "version_number": float(version.version),
        "run_id": version.run_id,
        "source_path": version.own("source"),
        "creation_timestamp": version.created_at,
        "last_updated_timestamp": version.updated_at,
    }
    return lambda field: _of_tags(field, version.tags, attributes)


def in_order(found: Sequence[tuple[Values, T]], order: Sequence[OrderKey]) -> list[T]:
    """Return things in an order, with NaN and missing values last both ways; equals stay put."""
    ordered = list(found)
    for key in reversed(order):
        placed = [(position_of(values, key), values, thing) for values, thing in ordered]
        present = [one for one in placed if one[0][0] == 0]
        others = sorted((one for one in placed if one[0][0] != 0), key=lambda one: one[0][0])
        present.sort(key=lambda one: one[0][1], reverse=key.descending)
        ordered = [(values, thing) for _, values, thing in present + others]
    return [thing for _, thing in ordered]


def _of_tags(field: Field, tags: Mapping[str, str], attributes: Mapping[str, Any]) -> Sequence[Any]:
    if field.kind is FieldKind.TAG:
        return _present(tags.get(field.key))
    return _present(attributes[field.key])


def _present(value: Any) -> Sequence[Any]:
    return [] if value is None else [value]
