"""Paths of artifacts: below their owner, with forward slashes, and never outside of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.tracking.errors import InvalidArtifactPath, InvalidValue

__all__ = ["Artifact", "ArtifactRoot", "check_artifact_path", "check_sha256"]

# Object keys hold at most 1,024 bytes, and the run's own prefix needs some of them.
MAX_PATH_BYTES = 850
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file or folder among the artifacts of a run or model."""

    path: str
    """Path below the run's artifacts."""
    is_directory: bool
    """Whether it is a folder."""
    size: int = 0
    """Size in bytes; 0 for a folder."""
    etag: str = ""
    """Changes whenever the bytes do; empty where it is not known."""


@dataclass(frozen=True, slots=True)
class ArtifactRoot:
    """Whose files they are."""

    prefix: str
    """Place below all artifacts, as `<experiment>/<run>/artifacts`."""
    owner: str
    """What messages call it, as `run 1f…`."""


def check_artifact_path(path: str, *, allow_root: bool = False) -> str:
    """Return `path` unchanged when it names a place below a run's artifacts.

    Nothing is normalised: a path that would have to be is refused, so that one file has one name.

    Args:
        path: Names joined by `/`.
        allow_root: Whether the empty path, the root itself, is accepted.

    Raises:
        InvalidArtifactPath: It is absolute, has an empty, `.` or `..` part, a backslash or a
            control character, or is longer than 850 bytes in UTF-8.
    """
    if not path:
        if allow_root:
            return path
        raise InvalidArtifactPath("the path must not be empty")
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise InvalidArtifactPath(f"the path must be at most {MAX_PATH_BYTES} bytes long")
    if path.startswith("/"):
        raise InvalidArtifactPath("the path must be relative to the run's artifacts")
    if "\\" in path:
        raise InvalidArtifactPath("the path must use forward slashes")
    if not path.isprintable():
        raise InvalidArtifactPath("the path must hold printable characters only")
    for part in path.split("/"):
        if part in {"", ".", ".."}:
            raise InvalidArtifactPath(f"the path must not have the part '{part}'")
    return path


def check_sha256(digest: str) -> str:
    """Return `digest` unchanged when it is empty or 64 lower-case hexadecimal digits.

    Raises:
        InvalidValue: It is neither.
    """
    if digest and _SHA256.match(digest) is None:
        raise InvalidValue("sha256 must be 64 lower-case hexadecimal digits", "header.sha256")
    return digest
