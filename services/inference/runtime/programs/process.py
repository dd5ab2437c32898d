"""Models that bring code, each in a process and an environment of its own.

What such a model holds can run any code, so the runtime's process only passes arrays on.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .environments import interpreter_for, plain_environment, told_environment
from .frames import receive, send
from .tensors import Array

__all__ = ["ModelProcess", "start"]

_END_SECONDS = 5


class ModelProcess:
    """A model in a process of its own.

    Args:
        command: Starts it; the number of its socket is put behind.
        environment: Its variables.
        directory: Its working directory.
        told: What it is told before it loads the model.
        examples: What it must be able to answer.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        told: Mapping[str, Any],
        examples: Sequence[Sequence[Array]] = (),
    ) -> None:
        self._command = command
        self._environment = environment
        self._directory = directory
        self._told = told
        self._examples = examples
        self._start()

    def __call__(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """Ask the model.

        Raises:
            RuntimeError: It failed; or its process ended, and the next call finds a new one.
        """
        if self._process.poll() is not None:
            self.close()
            self._start()
        try:
            send(self._wire, arrays)
            head, returned = receive(self._wire)
        except (ConnectionError, ValueError) as error:
            raise RuntimeError(f"{self._ended()}: {error}") from None
        if "error" in head:
            raise RuntimeError(head["error"])
        return returned

    def probe(self) -> Sequence[Sequence[Array]]:
        """The examples."""
        return self._examples

    def close(self) -> None:
        """End the process."""
        self._wire.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

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
            send(self._wire, **self._told)
            head, _ = receive(self._wire)
        except (ConnectionError, ValueError):
            raise RuntimeError(f"{self._ended()} while it loaded the model") from None
        if "error" in head:
            self.close()
            raise RuntimeError(head["error"])

    def _ended(self) -> str:
        self.close()
        return f"the model's process ended with status {self._process.returncode}"


def start(
    worker: str,
    folder: Path,
    signature: Mapping[str, Any],
    args: Mapping[str, str],
    *,
    told: Mapping[str, Any],
    examples: Sequence[Sequence[Array]] = (),
) -> ModelProcess:
    """The model of a bundle, in its process.

    Args:
        worker: Module of `programs` that the process runs.
        folder: Where the bundle's files lie.
        signature: What `signature.json` holds.
        args: What Triton tells of the instance.
        told: What the process is told before it loads the model.
        examples: What it must be able to answer.

    Raises:
        EnvironmentFailed: Its environment cannot be made.
        RuntimeError: It cannot be loaded.
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
    environment = told_environment(folder) | plain_environment(
        home,
        PYTHONPATH=str(folder / "programs.zip"),
        OMP_NUM_THREADS=str(threads),
        CUDA_VISIBLE_DEVICES=args.get("model_instance_device_id", "0") if on_gpu else "",
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    _tell(python)
    command = [python, "-m", f"programs.{worker}", str(model)]
    return ModelProcess(command, environment, home, told, examples)


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
