"""Where the files of a version's source lie: at a run, a logged model or a registered version."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from services.tracking.domain.artifacts import check_artifact_path
from services.tracking.domain.registry import full_name_of
from services.tracking.errors import ArtifactNotFound, InvalidValue

__all__ = ["SourcePlace", "source_place"]

_REMOTE: Final = re.compile(r"(?:s3a?|gs|abfss?|wasbs?|https?|dbfs|hdfs|viewfs)://", re.IGNORECASE)
_PLACEHOLDERS: Final = frozenset({"dummy-source", "prompt-template"})


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """Where files of a source lie: with one of a run, a logged model and a registered version."""

    path: str = ""
    """The folder below it; empty for all of it."""
    run_id: str = ""
    model_id: str = ""
    registered: str = ""
    """Full name of a registered model."""
    version: int = 0


def source_place(source: str, default_schema: str) -> SourcePlace | None:
    """Return where the files of a source lie on this server; None when they lie elsewhere.

    Raises:
        InvalidValue: It is a path of some machine, or leaves its place.
        ArtifactNotFound: It is of this server, and nothing it could have.
    """
    if source in _PLACEHOLDERS:
        return None
    split = urlsplit(source)
    if split.scheme in {"mlflow-artifacts", "runs", "models"} and not split.netloc:
        path = unquote(split.path).strip("/")
        check_artifact_path(path)
        return _own_place(split.scheme, path.split("/"), source, default_schema)
    if _REMOTE.match(source) and ".." not in unquote(source).split("/"):
        return None
    raise InvalidValue(
        f"Invalid model version source: '{source[:500]}'. Use artifacts of a run or logged model "
        "of this server (runs:/, models:/, mlflow-artifacts:/), or a remote URI.",
        "source",
    )


def _own_place(scheme: str, parts: Sequence[str], source: str, default_schema: str) -> SourcePlace:
    match scheme, *parts:
        case "runs", run_id, *rest:
            return SourcePlace("/".join(rest), run_id=run_id)
        case "models", model_id if model_id.startswith("m-"):
            return SourcePlace(model_id=model_id)
        case "models", name, version if version.isdigit():
            registered = full_name_of(name, default_schema)
            return SourcePlace(registered=registered, version=int(version))
        case "mlflow-artifacts", "registry", name, version, *rest if version.isdigit():
            return SourcePlace("/".join(rest), registered=name, version=int(version))
        case "mlflow-artifacts", _, "models", model_id, "artifacts", *rest:
            return SourcePlace("/".join(rest), model_id=model_id)
        case "mlflow-artifacts", _, run_id, "artifacts", *rest:
            return SourcePlace("/".join(rest), run_id=run_id)
    raise ArtifactNotFound(f"there is no model at '{source[:500]}'")
