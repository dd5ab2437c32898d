"""Runs attempts under supervisors that outlive the service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import psutil

from services.training.domain.life import AttemptResult, EndCause
from services.training.ports import AttemptKey, AttemptPlan
from services.training.supervisor.control import (
    AttemptFolder,
    Claim,
    Plan,
    boot_id,
    start_ticks,
)
from tessera_kit.config import Secret

__all__ = ["LocalProcesses", "attempt_folder"]

_SUPERVISOR = "services.training.supervisor"
_START_SECONDS = 60.0
_NOBODY = Claim(0, 0, "")


def attempt_folder(root: Path, key: AttemptKey) -> AttemptFolder:
    """The files of an attempt below the folder of all jobs."""
    return AttemptFolder(root / key.job_id / str(key.number))


class LocalProcesses:
    """`ports.Processes` on this machine.

    Args:
        root: Folder of all jobs' files.
        grace_seconds: Between SIGTERM and SIGKILL.
        log_limit_bytes: Of one attempt.
        log_days: How long logs of ended attempts are kept.
        nice: Added to the niceness of jobs' processes.
    """

    def __init__(
        self,
        root: Path,
        *,
        grace_seconds: float,
        log_limit_bytes: int,
        log_days: float = 30.0,
        nice: int = 0,
    ) -> None:
        self._root = root
        self._grace = grace_seconds
        self._log_limit = log_limit_bytes
        self._log_seconds = log_days * 86_400
        self._nice = nice

    async def start(self, plan: AttemptPlan) -> None:
        """Start an attempt's supervisor; returns once it took the attempt.

        Raises:
            OSError: It could not be started.
        """
        folder = attempt_folder(self._root, plan.key)
        await asyncio.to_thread(self._write, folder, plan)
        child = await asyncio.to_thread(_launch, folder)
        # Whoever links the claim first decides, should the supervisor only be slow.
        if not await asyncio.to_thread(_says_claimed, child) and not await self.adopt(plan.key):
            child.kill()
            raise OSError(f"the supervisor of attempt {plan.key.text} did not start")

    async def adopt(self, key: AttemptKey) -> bool:
        """Whether the attempt was started; when not, it never will be."""
        folder = attempt_folder(self._root, key)
        if not folder.control.is_dir() or folder.claim(_NOBODY):
            return False
        claim = folder.claimed()
        return claim is not None and claim.pid != 0

    async def wait(self, key: AttemptKey) -> AttemptResult:
        """Wait until the supervisor is gone, and whatever it may have left."""
        folder = attempt_folder(self._root, key)
        claim = folder.claimed()
        if claim is not None and claim.pid and claim.boot == boot_id():
            await _gone(claim)
        result = folder.result()
        if result is not None:
            return AttemptResult(EndCause(result.cause), result.exit_code, result.message)
        await asyncio.to_thread(_end_strays, key)
        return AttemptResult(EndCause.LOST, message="the job's processes ended without a result")

    async def stop(self, key: AttemptKey, cause: EndCause) -> None:
        """Ask the supervisor to end the attempt."""
        folder = attempt_folder(self._root, key)
        claim = folder.claimed()
        if claim is None or not claim.pid or claim.boot != boot_id():
            return
        folder.ask_to_stop(cause.value)
        with _process(claim) as descriptor:
            if descriptor is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)

    async def clear(self, key: AttemptKey) -> None:
        """Remove an ended attempt's files, all but its logs."""
        folder = attempt_folder(self._root, key)
        await asyncio.to_thread(_remove, folder)

    async def sweep(self, under_way: Collection[AttemptKey]) -> None:
        """Remove what attempts left that are not under way: files at once, logs when old."""
        await asyncio.to_thread(self._sweep, frozenset(under_way))

    def _sweep(self, under_way: frozenset[AttemptKey]) -> None:
        oldest = time.time() - self._log_seconds
        for path in self._root.glob("*/*"):
            if (
                not path.name.isdecimal()
                or AttemptKey(path.parent.name, int(path.name)) in under_way
            ):
                continue
            folder = AttemptFolder(path)
            if folder.control.exists():
                _remove(folder)
            elif path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)
                with contextlib.suppress(OSError):
                    path.parent.rmdir()

    def _write(self, folder: AttemptFolder, plan: AttemptPlan) -> None:
        folder.make()
        _write_secret(folder.token, plan.token)
        folder.write_plan(
            Plan(
                arguments=[sys.executable, *plan.code.arguments, *plan.arguments],
                directory=plan.code.directory or str(folder.work),
                environment=_job_environment(folder, plan),
                process_count=plan.process_count,
                memory_mib=plan.memory_mib,
                gpus=list(plan.gpus),
                gpus_per_process=plan.gpus_per_process,
                deadline_unix=time.time() + plan.seconds_left,
                grace_seconds=self._grace,
                log_limit_bytes=self._log_limit,
                nice=self._nice,
            )
        )


def _launch(folder: AttemptFolder) -> subprocess.Popen[bytes]:
    """Start a supervisor in a session of its own.

    By `subprocess` and in a thread, not by the event loop: it forks without gRPC's handlers, which
    may not be run while other threads are inside gRPC.
    """
    with (folder.control / "supervisor.log").open("ab") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", _SUPERVISOR, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_supervisor_environment(),
            start_new_session=True,
        )
    # It is reaped whenever it ends, whoever waits for its result.
    threading.Thread(target=child.wait, name=f"reap-{child.pid}", daemon=True).start()
    return child


def _says_claimed(child: subprocess.Popen[bytes]) -> bool:
    """Wait until a supervisor says that it took its attempt; False when it ends or is too slow."""
    assert child.stdout is not None  # noqa: S101 - it was asked for
    with child.stdout as said:
        readable, _, _ = select.select([said], [], [], _START_SECONDS)
        return bool(readable) and said.readline() == b"claimed\n"


def _job_environment(folder: AttemptFolder, plan: AttemptPlan) -> dict[str, str]:
    """All that a job's processes see; nothing of the service's own environment."""
    threads = str(plan.threads_per_process)
    environment = {
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        **_virtual_environment(),
        **plan.environment,
        "HOME": str(folder.home),
        "TMPDIR": str(folder.tmp),
        "TESSERA_HOME": str(folder.home / ".tessera"),
        "TESSERA_TOKEN_FILE": str(folder.token),
        # Processes of one job meet on this machine only.
        "GLOO_SOCKET_IFNAME": "lo",
        "TP_SOCKET_IFNAME": "lo",
    }
    for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM"):
        environment[f"{library}_NUM_THREADS"] = threads
    if plan.code.python_path:
        own = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (plan.code.python_path, own)))
    return environment


def _supervisor_environment() -> dict[str, str]:
    return {"LANG": "C.UTF-8", **_virtual_environment(), **_import_path()}


def _virtual_environment() -> Mapping[str, str]:
    programs = Path(sys.executable).parent
    variables = {"PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin"}
    if sys.prefix != sys.base_prefix:
        variables["VIRTUAL_ENV"] = sys.prefix
    return variables


def _import_path() -> Mapping[str, str]:
    # The supervisor is this package's own program, wherever the service imported it from.
    return {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}


def _write_secret(path: Path, secret: Secret) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret.reveal())


@contextlib.contextmanager
def _process(claim: Claim) -> Iterator[int | None]:
    """A descriptor of the claim's process that no later process of its number can take over."""
    try:
        descriptor = os.pidfd_open(claim.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor if start_ticks(claim.pid) == claim.ticks else None
    finally:
        os.close(descriptor)


async def _gone(claim: Claim) -> None:
    """Wait until the claim's process ended, whoever its parent is."""
    with _process(claim) as descriptor:
        if descriptor is None:
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)


def _end_strays(key: AttemptKey) -> None:
    """Kill processes of an attempt whose supervisor was killed; known by their environment."""
    while strays := [process for process in psutil.process_iter() if _is_of(process, key)]:
        for process in strays:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(strays, timeout=5)


def _is_of(process: psutil.Process, key: AttemptKey) -> bool:
    try:
        environment = process.environ()
        alive = process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False
    return (
        alive
        and environment.get("TESSERA_JOB_ID") == key.job_id
        and environment.get("TESSERA_JOB_ATTEMPT") == str(key.number)
    )


def _remove(folder: AttemptFolder) -> None:
    for path in (folder.code, folder.work, folder.home, folder.tmp, folder.control):
        shutil.rmtree(path, ignore_errors=True)
