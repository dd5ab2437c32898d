"""Models that bring code, each in a process and an environment of its own.

What such a model holds can run any code, so the runtime's process only passes arrays on.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .environments import interpreter_for, plain_environment, told_environment
from .frames import receive, send
from .tensors import Array, Call

__all__ = ["InputRefused", "ModelHangs", "ModelProcess", "ProcessFailed", "start"]

_END_SECONDS = 5.0
_LOAD_SECONDS = 270.0
_USUAL_SECONDS = 60.0
"""As long as the gateway lets a request take that has one answer."""
_GRACE_SECONDS = 5.0
_LOOK_SECONDS = 0.1
_SHORTEST_SECRET = 6
_PROGRAMS = Path(__file__).parents[1]
"""What this was imported from: the bundle's `programs.zip`."""


class ProcessFailed(RuntimeError):
    """What is told of a model that failed, or of its process."""


class InputRefused(ProcessFailed):
    """What a model tells of a request that is at fault itself."""


class ModelHangs(ProcessFailed):
    """A model did not answer in time, and its process was ended."""


class ModelProcess:
    """A model in a process of its own.

    Args:
        command: Starts it; the number of its socket is put behind.
        environment: Its variables.
        directory: Its working directory.
        told: What it is told before it loads the model.
        examples: What it must be able to answer.
        secrets: Texts that no failure may tell.
        longest_seconds: How long it may take to answer, and to give each response of a stream.
        grace_seconds: How long it may go on with an answer that nobody waits for.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        told: Mapping[str, Any],
        examples: Sequence[Sequence[Array]] = (),
        *,
        secrets: Sequence[str] = (),
        longest_seconds: float = _USUAL_SECONDS,
        grace_seconds: float = _GRACE_SECONDS,
    ) -> None:
        self._command = command
        self._environment = environment
        self._directory = directory
        self._told = told
        self._examples = examples
        self._secrets = [one for one in secrets if len(one) >= _SHORTEST_SECRET]
        self._longest_seconds = longest_seconds
        self._grace_seconds = grace_seconds
        self._start()

    def __call__(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """Ask the model for its one answer, as `ask` does."""
        return self.ask(arrays, Call())

    def ask(self, arrays: Sequence[Array], call: Call) -> Sequence[Array]:
        """Ask the model for its one answer.

        Raises:
            InputRefused: The request is at fault itself.
            ModelHangs: It took too long.
            ProcessFailed: It failed. When its process ended, the next call finds a new one.
        """
        self._begin(arrays, call)
        return self._next(call.gave_up)[1]

    def stream(self, arrays: Sequence[Array], call: Call) -> Generator[Sequence[Array], None, None]:
        """Ask the model for any number of responses; errors are those of `ask`.

        Closing the generator has the model stop after the response that it is about to give.
        """
        self._begin(arrays, call)
        looked, wanted = time.monotonic(), True
        while wanted:
            head, returned = self._next(call.gave_up)
            if not head.get("more"):
                return
            wanted = False
            try:
                yield returned
                now = time.monotonic()
                if now - looked < _LOOK_SECONDS:
                    wanted = True
                else:
                    # Asking the runtime for each response would cost more than most of them.
                    looked, wanted = now, not call.gave_up()
            finally:
                if not wanted:
                    self._stop()

    def probe(self) -> Sequence[Sequence[Array]]:
        """The examples."""
        return self._examples

    def close(self) -> None:
        """End the process."""
        self._wire.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()

    def _start(self) -> None:
        self._wire, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            self._wire.settimeout(_LOAD_SECONDS)
            send(self._wire, **self._told)
            self._await(_LOAD_SECONDS, lambda: False)
            head, _ = receive(self._wire)
        except TimeoutError:
            raise self._hangs("did not load the model") from None
        except (ConnectionError, ValueError):
            raise ProcessFailed(f"{self._ended()} while it loaded the model") from None
        if "error" in head:
            self.close()
            raise ProcessFailed(self._redacted(head["error"]))

    def _begin(self, arrays: Sequence[Array], call: Call) -> None:
        if self._process.poll() is not None:
            self.close()
            self._start()
        try:
            self._wire.settimeout(self._longest_seconds)
            send(self._wire, arrays, **call.told)
        except TimeoutError:
            raise self._hangs("took no request") from None
        except ConnectionError as error:
            raise ProcessFailed(f"{self._ended()}: {error}") from None

    def _next(self, gave_up: Callable[[], bool]) -> tuple[dict[str, Any], list[Array]]:
        """The next frame of an answer."""
        self._await(self._longest_seconds, gave_up)
        try:
            head, returned = receive(self._wire)
        except TimeoutError:
            raise self._hangs("did not end its answer") from None
        except (ConnectionError, ValueError) as error:
            raise ProcessFailed(f"{self._ended()}: {error}") from None
        if "error" in head:
            kind = InputRefused if head.get("refused") else ProcessFailed
            raise kind(self._redacted(head["error"]))
        return head, returned

    def _await(self, longest: float, gave_up: Callable[[], bool]) -> None:
        """Return when there is something to read.

        Raises:
            ModelHangs: There is not, and too much time has passed.
        """
        ready = select.poll()
        ready.register(self._wire, select.POLLIN)
        began, left = time.monotonic(), None
        while not ready.poll(_LOOK_SECONDS * 1000):
            now = time.monotonic()
            if now - began > longest:
                raise self._hangs(f"gave no answer in {longest:g} s")
            if left is None:
                left = now if gave_up() else None
            elif now - left > self._grace_seconds:
                raise self._hangs("went on after its callers had given up")

    def _stop(self) -> None:
        """Have the model end an answer of which nobody wants more."""
        with suppress(ProcessFailed, OSError):
            send(self._wire, stop=True)
            while self._next(lambda: True)[0].get("more"):
                continue

    def _hangs(self, what: str) -> ModelHangs:
        self._kill()
        return ModelHangs(f"it {what}, so its process was ended; the next request starts it again")

    def _kill(self) -> None:
        self._wire.close()
        with suppress(ProcessLookupError):
            # With what it started.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ended(self) -> str:
        self.close()
        return f"the model's process ended with status {self._process.returncode}"

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def start(
    worker: str,
    folder: Path,
    signature: Mapping[str, Any],
    args: Mapping[str, str],
    *,
    told: Mapping[str, Any],
    examples: Sequence[Sequence[Array]] = (),
    longest_seconds: float = _USUAL_SECONDS,
) -> ModelProcess:
    """The model of a bundle, in its process.

    Args:
        worker: Module of `programs` that the process runs.
        folder: Where the bundle's files lie.
        signature: What `signature.json` holds.
        args: What Triton tells of the instance.
        told: What the process is told before it loads the model.
        examples: What it must be able to answer.
        longest_seconds: How long it may take to answer.

    Raises:
        EnvironmentFailed: Its environment cannot be made.
        ProcessFailed: It cannot be loaded.
    """
    model = folder / "model"
    with (folder / "lock").open("w") as lock:
        # The instances of a model share its folder and its environment.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not model.exists():
            _unpack(folder / signature["file"], model)
        python = interpreter_for(model / "requirements.txt", folder / "environment")
    home = Path(tempfile.mkdtemp(prefix="home-", dir=folder))
    threads = max(1, (os.cpu_count() or 2) // (2 * max(1, int(signature["instance_count"]))))
    on_gpu = args.get("model_instance_kind") == "GPU"
    own = told_environment(folder)
    environment = own | plain_environment(
        home,
        PYTHONPATH=str(_PROGRAMS),
        OMP_NUM_THREADS=str(threads),
        CUDA_VISIBLE_DEVICES=args.get("model_instance_device_id", "0") if on_gpu else "",
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    _tell(python)
    command = [python, "-m", f"programs.{worker}", str(model)]
    return ModelProcess(
        command,
        environment,
        home,
        told,
        examples,
        secrets=list(own.values()),
        longest_seconds=longest_seconds,
    )


def _unpack(archive: Path, model: Path) -> None:
    unfinished = model.with_name("unpacking")
    with zipfile.ZipFile(archive) as packed:
        # Paths were checked when the archive was made.
        packed.extractall(unfinished)
    unfinished.rename(model)


def _tell(python: str) -> None:
    # Found only inside Triton.
    import triton_python_backend_utils as pb_utils

    which = "the runtime's environment" if python == sys.executable else "its own environment"
    pb_utils.Logger.log_info(f"the model runs in {which}: {python}")
