"""The Python environment of a model that brings code: made of its requirements, or the runtime's.

The runtime's own environment serves when it satisfies every requirement; otherwise the model gets
one of its own, which lies beside the model and goes with it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

__all__ = [
    "EnvironmentFailed",
    "interpreter_for",
    "plain_environment",
    "told_environment",
    "unsatisfied",
]

_KEPT = ("LANG", "LC_ALL", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ")
_MARK = "TESSERA_STACK_HOME"
_INSTALL = (
    *("install", "--quiet", "--disable-pip-version-check", "--no-input"),
    *("--retries", "1", "-r"),
)
_INSTALL_SECONDS = 280


class EnvironmentFailed(RuntimeError):
    """A model's environment cannot be made."""


def interpreter_for(requirements: Path, place: Path) -> str:
    """The interpreter that runs a model.

    Args:
        requirements: pip's `requirements.txt` of the model; a missing one requires nothing.
        place: Where the model's own environment is made when it needs one; one process at a time
            may call this for a place.

    Raises:
        EnvironmentFailed: It needs one, and that cannot be made.
    """
    lines = requirements.read_text("utf-8").splitlines() if requirements.exists() else []
    missing = unsatisfied(lines)
    if not missing:
        return sys.executable
    python, done = place / "bin" / "python", place / "complete"
    if not done.exists():
        listed = ", ".join(missing[:10])
        # Where the runtime has pip, it installs into the other: a pip of its own takes seconds.
        shared = importlib.util.find_spec("pip") is not None
        make = [sys.executable, "-m", "venv", *(["--without-pip"] if shared else []), str(place)]
        pip = [sys.executable, "-m", "pip", "--python"] if shared else []
        pip += [str(python), *([] if shared else ["-m", "pip"])]
        _do("an environment cannot be made", make)
        _do(
            f"the runtime's environment lacks {listed}, and pip cannot install them in one of the "
            "model's own",
            [*pip, *_INSTALL, str(requirements)],
        )
        done.touch()
    return str(python)


def unsatisfied(lines: Sequence[str]) -> list[str]:
    """Which lines of a `requirements.txt` this interpreter's environment does not satisfy.

    Lines that cannot be told, as options of pip and addresses, count as not satisfied.
    """
    missing = []
    for line in lines:
        text = line.split(" #", 1)[0].strip()
        if not text or text.startswith("#"):
            continue
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            missing.append(text)
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        found = _installed(wanted.name)
        if wanted.url is not None or found is None:
            missing.append(text)
        elif not wanted.specifier.contains(found, prereleases=True):
            missing.append(f"{text} (it has {found})")
    return missing


def told_environment(folder: Path) -> dict[str, str]:
    """The variables that the served entity gives its process; none when it gives none."""
    path = folder / "environment.json"
    if not path.exists():
        return {}
    # It may hold secrets.
    path.chmod(0o600)
    told: dict[str, str] = json.loads(path.read_text("utf-8"))
    return told


def plain_environment(home: Path, **more: str) -> dict[str, str]:
    """The variables that a model's process gets: none of the runtime's but what names no secret."""
    kept = {name: os.environ[name] for name in (*_KEPT, _MARK) if name in os.environ}
    return {**kept, "HOME": str(home), **more}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _do(failure: str, command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentFailed(f"{failure}: not done after {_INSTALL_SECONDS} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        told = (errors or done.stderr.strip().splitlines() or ["no reason was told"])[0]
        raise EnvironmentFailed(f"{failure}: {told[:300]}")
