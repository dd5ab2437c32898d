"""What paths of `mlflow-artifacts:` URIs mean.

A path is `<experiment>/<run>/artifacts/...`, `<experiment>/models/<model>/artifacts/...`,
`<experiment>/traces/<trace>/artifacts/...`, or, of a version of a registered model,
`registry/<full name>/<version>/...`, which the catalog keeps. What it names must exist and be of
that experiment, and no path leaves it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from services.tracking.domain.artifacts import check_artifact_path
from services.tracking.errors import ArtifactNotFound, InvalidArtifactPath, RegisteredFilesKept
from services.tracking.handlers.cases import UseCases
from tessera_kit.rpc.identity import Principal

__all__ = ["Place", "Places", "safe_path"]

_DRIVE: Final = re.compile(r"(?:^|/)[A-Za-z]:")
_DECODINGS: Final = 3
_MOST_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Place:
    """What a path of the artifact store means."""

    experiment_id: str
    path: str
    """Below the artifacts of the run or model; empty for all of them."""
    run_id: str = ""
    model_id: str = ""
    trace_id: str = ""
    registered: str = ""
    """A registered model's full name, for files of a version of it."""
    version: int = 0

    @property
    def owner(self) -> dict[str, str]:
        """Whose artifacts they are, as the use cases take it."""
        return {"run_id": self.run_id, "model_id": self.model_id, "trace_id": self.trace_id}


class Places:
    """Finds what paths name.

    Args:
        cases: Who knows runs, models and traces.
    """

    def __init__(self, cases: UseCases) -> None:
        self._runs = cases.runs
        self._models = cases.models
        self._traces = cases.traces

    async def find(self, principal: Principal, path: str) -> Place:
        """Return what a path names, which must be there as it says.

        Raises:
            InvalidArtifactPath: It would leave its place.
            ArtifactNotFound, RunNotFound, LoggedModelNotFound, TraceNotFound: It names nothing.
            PermissionDenied: The caller may not read it.
        """
        place = _place_of(safe_path(path))
        if place.registered:
            return place
        if place.run_id:
            owner = (await self._runs.info(principal, place.run_id)).experiment_id
        elif place.trace_id:
            owner = (await self._traces.get(principal, place.trace_id)).experiment_id
        else:
            owner = (await self._models.get(principal, place.model_id)).experiment_id
        if owner != place.experiment_id:
            raise ArtifactNotFound(f"there are no artifacts at '{path}'")
        return place

    async def changeable(self, principal: Principal, path: str) -> Place:
        """Return what a path names, when it may be written at all; as `find`.

        Raises:
            RegisteredFilesKept: It is of a version of a registered model.
        """
        place = await self.find(principal, path)
        if place.registered:
            raise RegisteredFilesKept("files of a registered model's version do not change")
        return place


def safe_path(path: str) -> str:
    """Return a path that stays where it is, even when it is decoded once more on its way.

    Raises:
        InvalidArtifactPath: It would not.
    """
    path = path.removesuffix("/")
    decoded = path
    for _ in range(_DECODINGS):
        check_artifact_path(decoded, allow_root=True)
        if _DRIVE.search(decoded):
            raise InvalidArtifactPath("the path must not name a drive")
        further = unquote(decoded)
        if further == decoded:
            return path
        decoded = further
    raise InvalidArtifactPath("the path is encoded too many times")


def _place_of(path: str) -> Place:
    parts = path.split("/")
    if len(parts) >= 3 and parts[0] == "registry" and parts[2].isdecimal():
        name, version = parts[1], int(parts[2][:_MOST_DIGITS])
        return Place("", "/".join(parts[3:]), registered=name, version=version)
    if len(parts) >= 4 and parts[1] == "models" and parts[3] == "artifacts":
        return Place(parts[0], "/".join(parts[4:]), model_id=parts[2])
    if len(parts) >= 4 and parts[1] == "traces" and parts[3] == "artifacts":
        return Place(parts[0], "/".join(parts[4:]), trace_id=parts[2])
    if len(parts) >= 3 and parts[2] == "artifacts":
        return Place(parts[0], "/".join(parts[3:]), run_id=parts[1])
    raise ArtifactNotFound(
        f"there are no artifacts at '{path}': paths are <experiment>/<run>/artifacts/<path>, "
        "<experiment>/models/<model>/artifacts/<path>, or "
        "<experiment>/traces/<trace>/artifacts/<path>"
    )
