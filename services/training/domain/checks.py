"""What a specification must satisfy beyond the rules of its contract."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from services.training.domain.job import FileSource, GitSource, JobSpec
from services.training.errors import InvalidPath, invalid_job

__all__ = ["GitRules", "check_checkpoint_path", "check_spec", "relative_path"]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RESERVED = frozenset(
    {
        "GROUP_RANK",
        "HOME",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "PATH",
        "RANK",
        "TMPDIR",
        "WORLD_SIZE",
    }
)
_MAX_SPEC_BYTES = 256 * 1024


class GitRules:
    """Which Git repositories may be fetched.

    Args:
        hosts: Host names that `https` and `ssh` URLs may name.
        file_root: Folder under which `file` URLs may point; none are allowed when empty.
    """

    def __init__(self, hosts: frozenset[str] = frozenset(), file_root: str = "") -> None:
        self.hosts = hosts
        self.file_root = file_root.rstrip("/")

    def check(self, source: GitSource) -> None:
        """Refuse what may not be fetched.

        Raises:
            InvalidJob: The URL's scheme, host or place is not allowed, it holds a password, or the
                revision or path is none.
        """
        url = _parsed(source.url)
        if url.scheme == "file":
            self._check_file(url.netloc, url.path)
        elif url.scheme in {"https", "ssh"}:
            if (url.hostname or "") not in self.hosts:
                allowed = ", ".join(sorted(self.hosts)) or "none"
                raise invalid_job("git.url", f"must name a host that is allowed here: {allowed}")
            if url.password or (url.username and url.scheme == "https"):
                raise invalid_job("git.url", "must not hold credentials; it is kept with the job")
        else:
            raise invalid_job("git.url", "must begin with https:// or ssh://")
        _check_revision(source.revision)
        relative_path(source.path, "git.path")
        if not source.path.endswith(".py"):
            raise invalid_job("git.path", "must name a Python file (.py)")

    def _check_file(self, netloc: str, path: str) -> None:
        inside = path.startswith(f"{self.file_root}/") and ".." not in PurePosixPath(path).parts
        if not self.file_root or netloc or not inside or "%" in path:
            raise invalid_job("git.url", "file:// is not allowed for this place")


class _Url:
    def __init__(self, text: str) -> None:
        parts = urlsplit(text)
        self.scheme, self.netloc, self.path = parts.scheme, parts.netloc, parts.path
        self.hostname = parts.hostname
        self.username, self.password = parts.username, parts.password
        # Reading it checks that it is a number.
        self.port = parts.port


def _parsed(text: str) -> _Url:
    if not text.isascii() or not text.isprintable() or " " in text or text.startswith("-"):
        raise invalid_job("git.url", "must be a URL")
    try:
        return _Url(text)
    except ValueError:
        raise invalid_job("git.url", "must be a URL") from None


def _check_revision(revision: str) -> None:
    # The rules of git-check-ref-format that matter here; above all, no option and no refspec.
    wrong = (
        revision.startswith(("-", "/", "."))
        or ".." in revision
        or "@{" in revision
        or any(character in " ~^:?*[\\" or not character.isprintable() for character in revision)
    )
    if wrong:
        raise invalid_job("git.revision", "must be a commit, tag or branch")


def relative_path(path: str, field: str) -> PurePosixPath:
    """A path that stays below its root.

    Raises:
        InvalidJob: It is absolute, empty, leaves its root or holds odd characters.
    """
    if not _is_relative(path):
        raise invalid_job(field, "must be a relative path with forward slashes and without '..'")
    return PurePosixPath(path)


def check_checkpoint_path(path: str) -> str:
    """Return the path of a checkpoint's file unchanged.

    Raises:
        InvalidPath: It leaves its checkpoint or is not in its simplest form.
    """
    if not _is_relative(path):
        raise InvalidPath("path must be relative, with forward slashes and without '.' and '..'")
    return path


def _is_relative(path: str) -> bool:
    parts = path.split("/")
    return (
        path.isprintable()
        and "\\" not in path
        and all(part not in {"", ".", ".."} and len(part.encode()) <= 255 for part in parts)
    )


def check_spec(spec: JobSpec, git: GitRules, gpus: int) -> None:
    """Refuse a specification that could never run here.

    Args:
        spec: The specification.
        git: Which repositories may be fetched.
        gpus: How many GPUs the machine offers.

    Raises:
        InvalidJob: The violations say what is wrong.
    """
    for name, value in spec.environment.items():
        _check_variable(name, value)
    for argument in spec.arguments:
        if "\0" in argument:
            raise invalid_job("arguments", "must not hold NUL characters")
    wanted = spec.resources.process_count * spec.resources.gpus_per_process
    if wanted > gpus:
        raise invalid_job("resources.gpus_per_process", f"asks for {wanted} GPUs; there are {gpus}")
    values = (*spec.arguments, *spec.environment.values(), *spec.tags.values())
    # All of it travels in the job's events, which the bus bounds.
    if sum(len(value.encode()) for value in values) > _MAX_SPEC_BYTES:
        limit = f"{_MAX_SPEC_BYTES // 1024} KiB"
        raise invalid_job("arguments", f"must hold, with environment and tags, at most {limit}")
    if isinstance(spec.source, GitSource):
        git.check(spec.source)
    elif isinstance(spec.source, FileSource) and "\0" in spec.source.content:
        raise invalid_job("file.content", "must be text without NUL characters")


def _check_variable(name: str, value: str) -> None:
    if not _VARIABLE.match(name):
        raise invalid_job(
            "environment", f"names must be like variables, which {name[:50]!r} is not"
        )
    if name.startswith("TESSERA_") or name in _RESERVED:
        raise invalid_job("environment", f"{name} is set by the service")
    if "\0" in value:
        raise invalid_job("environment", "values must not hold NUL characters")
