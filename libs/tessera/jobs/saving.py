"""Checkpoints: a snapshot is taken at once, and stored in the background."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.jobs.calls import Door, file_chunks
from tessera.jobs.surroundings import Surroundings
from tessera.training.v1 import training_service_pb2 as pb
from tessera.training.v1.training_service_pb2_grpc import JobRuntimeServiceStub

__all__ = ["Checkpoint", "CheckpointStore"]

_TREE = "state.json"
_TENSORS = "state.safetensors"
_FORMAT = 1
_FILE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read back."""

    step: int
    """The step that it holds the state after."""
    state: Any
    """What was given to `Job.checkpoint`; tensors are on the CPU."""


class CheckpointStore:
    """Saves and loads one job's checkpoints.

    Args:
        door: The training service.
        surroundings: Whose checkpoints.
    """

    def __init__(self, door: Door, surroundings: Surroundings) -> None:
        self._door = door
        self._stub: Any = JobRuntimeServiceStub(door.channel)
        self._job_id = surroundings.job_id
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._lock = threading.Lock()

    def save(self, step: int, state: Any, *, wait: bool) -> None:
        """Take a snapshot and store it; waits for the one before, so that only one is held.

        Raises:
            UnsavableState: The state holds something that cannot be saved.
            TesseraError: The one before could not be stored.
        """
        from tessera.jobs.states import pack

        with self._lock:
            self.finish()
            tree, tensors = pack(state)
            self._pending = self._worker.submit(self._store, step, tree, tensors)
            if wait:
                self.finish()

    def finish(self) -> None:
        """Wait until the last snapshot is stored.

        Raises:
            TesseraError: It could not be.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def load(self) -> Checkpoint | None:
        """Read the latest complete checkpoint; None when there is none."""
        request = pb.GetLatestCheckpointRequest(job_id=self._job_id)
        latest = self._door.call(self._stub.GetLatestCheckpoint, request)
        if not latest.HasField("checkpoint"):
            return None
        with tempfile.TemporaryDirectory() as folder:
            for path in (_TREE, _TENSORS):
                self._download(latest.checkpoint.step, path, Path(folder, path))
            return _read(Path(folder), latest.checkpoint.step)

    def close(self) -> None:
        """Store what is pending and end."""
        try:
            self.finish()
        finally:
            self._worker.shutdown()

    def _store(self, step: int, tree: Any, tensors: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), tree, tensors)
            for path in (_TENSORS, _TREE):
                messages = self._upload(step, path, Path(folder, path))
                self._door.call(self._stub.UploadCheckpointFile, messages, timeout=_FILE_SECONDS)
        request = pb.CommitCheckpointRequest(job_id=self._job_id, step=step)
        self._door.call(self._stub.CommitCheckpoint, request)

    def _upload(self, step: int, path: str, file: Path) -> Callable[[], Iterator[object]]:
        header = pb.UploadCheckpointFileHeader(job_id=self._job_id, step=step, path=path)

        def messages() -> Iterator[object]:
            yield pb.UploadCheckpointFileRequest(header=header)
            for chunk in file_chunks(file):
                yield pb.UploadCheckpointFileRequest(chunk=chunk)

        return messages

    def _download(self, step: int, path: str, to: Path) -> None:
        request = pb.DownloadCheckpointFileRequest(job_id=self._job_id, step=step, path=path)

        def take(responses: Iterator[pb.DownloadCheckpointFileResponse]) -> None:
            with to.open("wb") as file:
                for response in responses:
                    file.write(response.chunk)

        self._door.gather(self._stub.DownloadCheckpointFile, request, take)


def _write(folder: Path, tree: Any, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    content = json.dumps({"format": _FORMAT, "state": tree}, allow_nan=False)
    Path(folder, _TREE).write_text(content, "utf-8")
    save_file(tensors, Path(folder, _TENSORS))


def _read(folder: Path, step: int) -> Checkpoint:
    from safetensors.torch import load_file

    from tessera.jobs.states import unpack

    content = json.loads(Path(folder, _TREE).read_text("utf-8"))
    if content["format"] != _FORMAT:
        raise ValueError(f"the checkpoint has format {content['format']}, not {_FORMAT}")
    return Checkpoint(step, unpack(content["state"], load_file(Path(folder, _TENSORS))))
