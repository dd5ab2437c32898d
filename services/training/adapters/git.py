"""Fetches one commit of a Git repository with the `git` program, and nothing that could run code.

No hooks, no submodules, no filters, no credential helpers, no configuration but what is given here;
only the protocols that are allowed; one commit deep where the server allows it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from services.training.domain.checks import GitRules
from services.training.domain.job import GitSource
from services.training.errors import SourceRefused, SourceUnavailable
from tessera_kit.errors import InvalidArgument

__all__ = ["Git"]

Process: TypeAlias = "subprocess.Popen[bytes]"

_OPTIONS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "credential.helper=",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.version=2",
    "submodule.recurse=false",
    "transfer.fsckObjects=true",
)
_PATH = "/usr/local/bin:/usr/bin:/bin"
_COMMIT = re.compile(r"[0-9a-f]{4,40}\Z")
_FULL_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
# Said by git and servers where asking again brings nothing else.
_FINAL = re.compile(
    r"couldn't find remote ref|not our ref|unadvertised object|not found|"
    r"authentication failed|could not read Username|permission denied|"
    r"transport '.*' not allowed|does not appear to be a git repository|not a git repository",
    re.IGNORECASE,
)


class Git:
    """Fetches commits.

    Args:
        rules: Which repositories may be fetched.
        timeout: Seconds for one fetch.
        max_depth: Commits to look through for an abbreviated one.
    """

    def __init__(self, rules: GitRules, *, timeout: float = 300.0, max_depth: int = 1000) -> None:
        self._rules = rules
        self._timeout = timeout
        self._max_depth = max_depth

    async def fetch(self, source: GitSource, folder: Path, home: Path) -> str:
        """Check a revision's files out into a folder; returns the full commit.

        Args:
            source: Repository and revision.
            folder: An empty folder.
            home: A folder for what git may want to write beside it.

        Raises:
            SourceRefused: It is not allowed, or there is no such repository or revision.
            SourceUnavailable: The repository cannot be reached now.
        """
        try:
            self._rules.check(source)
        except InvalidArgument as error:
            raise SourceRefused(error.message) from None
        await self._git(folder, home, "init", "--quiet", "--template=", ".")
        await self._fetch(source, folder, home)
        commit = await self._git(folder, home, "rev-parse", "--verify", "FETCH_HEAD^{commit}")
        await self._git(folder, home, "checkout", "--quiet", "--detach", commit.strip())
        return commit.strip()

    async def _fetch(self, source: GitSource, folder: Path, home: Path) -> None:
        wanted = source.revision
        try:
            await self._get(source.url, [wanted], 1, folder, home)
        except SourceRefused:
            if not _COMMIT.match(wanted) or _FULL_COMMIT.match(wanted):
                raise
            # An abbreviated commit can only be looked for in the history.
            refs = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
            await self._get(source.url, refs, self._max_depth, folder, home)
            commit = await self._git(
                folder, home, "rev-parse", "--verify", "--quiet", f"{wanted}^{{commit}}"
            )
            (folder / ".git" / "FETCH_HEAD").write_text(f"{commit.strip()}\n", "ascii")

    async def _get(
        self, url: str, refs: Sequence[str], depth: int, folder: Path, home: Path
    ) -> None:
        await self._git(
            folder,
            home,
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-write-commit-graph",
            f"--depth={depth}",
            "--end-of-options",
            url,
            *refs,
        )

    async def _git(self, folder: Path, home: Path, *arguments: str) -> str:
        options = [part for option in _OPTIONS for part in ("-c", option)]
        command = ["git", *options, *arguments]
        child = await asyncio.to_thread(_start, command, folder, self._environment(home))
        try:
            async with asyncio.timeout(self._timeout):
                output, errors = await asyncio.to_thread(child.communicate)
        except TimeoutError:
            raise SourceUnavailable(
                f"git {arguments[0]} took longer than {self._timeout:g} s"
            ) from None
        finally:
            if child.returncode is None:
                # It leads a group of its own, with the helpers that it started; the thread that
                # reads its output reaps it.
                os.killpg(child.pid, signal.SIGKILL)
        if child.returncode != 0:
            said = errors.decode("utf-8", "replace").strip()[-1000:]
            message = f"git {arguments[0]} failed: {said or f'exit code {child.returncode}'}"
            raise (SourceRefused if _is_final(arguments[0], said) else SourceUnavailable)(message)
        return output.decode("utf-8", "replace")

    def _environment(self, home: Path) -> dict[str, str]:
        protocols = ["https", "ssh", *(["file"] if self._rules.file_root else [])]
        return {
            "PATH": _PATH,
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "GIT_ALLOW_PROTOCOL": ":".join(protocols),
            "GIT_ASKPASS": "/bin/false",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes",
            "GIT_TERMINAL_PROMPT": "0",
        }


def _start(command: list[str], folder: Path, environment: dict[str, str]) -> Process:
    # By `subprocess`, not by the event loop: see `processes._launch`.
    try:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if error.filename != command[0]:
            raise
        raise SourceRefused(
            "git is not installed where the training service runs; install it there, or submit "
            "the job as a file or a package"
        ) from None


def _is_final(command: str, said: str) -> bool:
    return command == "rev-parse" or _FINAL.search(said) is not None
