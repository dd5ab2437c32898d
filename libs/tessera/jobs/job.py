"""The running job."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tessera.client.predicates import Condition
from tessera.jobs.calls import Door
from tessera.jobs.reading import TableReader
from tessera.jobs.reporting import Reporter
from tessera.jobs.saving import Checkpoint, CheckpointStore
from tessera.jobs.surroundings import Surroundings
from tessera.training.v1 import job_pb2, training_service_pb2
from tessera.training.v1.training_service_pb2_grpc import JobRuntimeServiceStub

if TYPE_CHECKING:
    import pyarrow
    import torch

__all__ = ["Job", "current"]

_lock = threading.Lock()
_current: list[Job] = []


def current() -> Job:
    """The job that this process belongs to; the same object at every call.

    Raises:
        ConfigError: The process is not of a training job; the text names the missing variable.
    """
    with _lock:
        if not _current:
            job = Job(Surroundings.from_env())
            # What is queued goes out before the process ends, unless it is killed.
            atexit.register(_close_at_exit, job)
            _current.append(job)
        return _current[0]


def _close_at_exit(job: Job) -> None:
    try:
        job.close()
    except Exception:
        # A job that could not store what it made has not succeeded, whatever its own code thinks.
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


class Job:
    """What a job's process can ask for and tell. Made by `current`.

    Args:
        surroundings: Identity, rights and doors.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._training = Door(surroundings.training, surroundings)
        self._tracking = Door(surroundings.tracking, surroundings)
        self._catalog = Door(surroundings.catalog, surroundings)
        self._terminated = threading.Event()
        self._listens = False
        self._closed = False
        self._metrics: dict[str, float] = {}

    @property
    def id(self) -> str:
        """The job's id."""
        return self._surroundings.job_id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._surroundings.attempt

    @property
    def run_id(self) -> str:
        """The id of the job's tracking run."""
        return self._surroundings.run_id

    @property
    def rank(self) -> int:
        """Which of the job's processes this is, from 0."""
        return self._surroundings.rank

    @property
    def world_size(self) -> int:
        """How many processes the job has."""
        return self._surroundings.world_size

    @property
    def should_stop(self) -> bool:
        """Whether the job was asked to stop: save what there is, then end.

        Code that asks this is given the grace time; code that never asks ends at SIGTERM as any
        program does.
        """
        if not self._listens and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: self._terminated.set())
            self._listens = True
        return self._terminated.is_set() or self._told_to_stop()

    def read_table(
        self,
        full_name: str,
        *,
        columns: Sequence[str] = (),
        where: Iterable[Condition] = (),
        order_by: Sequence[str] = (),
        limit: int = 0,
    ) -> pyarrow.Table:
        """Read rows of a catalog table into memory, with the submitter's rights.

        The table becomes an input of the job's run, with the version that it has now, and the
        lineage of what the job makes leads to it. What is written to it between that and the
        reading, a moment later, may be read under the older version.

        Args:
            full_name: "catalog.schema.table".
            columns: The columns to read; all when empty.
            where: Conditions that must all hold, as `("month", "<=", 3)`.
            order_by: Columns to order by; a leading "-" turns one around. Without it the order of
                rows may differ from read to read.
            limit: How many rows at most; all when 0.

        Raises:
            NotFound: There is no such table.
            PermissionDenied: The submitter lacks SELECT on it, or USE on its parents.
            InvalidArgument: A column does not exist.
        """
        return self._reader.read(
            full_name, columns=columns, where=where, order_by=order_by, limit=limit
        )

    def log_params(self, params: Mapping[str, object]) -> None:
        """Write parameters of the job's run; values become texts.

        Raises:
            TesseraError: One has another value already.
        """
        if self._is_first:
            self._reporter.params(params)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Write points of metrics of the job's run, in the background.

        Args:
            metrics: Values by name; NaN and infinities are allowed.
            step: At which step they were measured.

        Raises:
            TesseraError: Earlier points were refused.
        """
        if self._is_first:
            values = {key: _number(value) for key, value in metrics.items()}
            self._reporter.metrics(values, step)

    def progress(self, step: int, total: int = 0, message: str = "", **metrics: float) -> None:
        """Say how far the job is, for those who watch it; in the background, the latest wins.

        Args:
            step: The step reached.
            total: The last step; 0 when unknown.
            message: What to say of it.
            metrics: Values to show; they stay until they are replaced. They do not go to the run.
        """
        if not self._is_first:
            return
        self._metrics.update((key, _number(value)) for key, value in metrics.items())
        told = job_pb2.Progress(
            step=step, total_steps=total, message=message, metrics=self._metrics
        )
        self._reporter.progress(told)

    def checkpoint(self, step: int, state: Any, *, wait: bool = False) -> None:
        """Save a checkpoint: the snapshot is taken at once, storing it happens in the background.

        It counts once it is stored whole; a job that dies before resumes from the one before.

        Args:
            step: The step that this is the state after.
            state: Dicts, lists and tuples of tensors, arrays and plain data, such as the state
                dicts of a module and its optimizer, and `random_state()`.
            wait: Whether to return only when it is stored.

        Raises:
            UnsavableState: The state holds something else; the text says where.
            TesseraError: The checkpoint before this one could not be stored.
        """
        if self._is_first:
            self._checkpoints.save(step, state, wait=wait)

    def resume(self) -> Checkpoint | None:
        """The latest complete checkpoint of this job, whichever attempt saved it; None without one.

        Every process of a job may ask; tensors are on the CPU.
        """
        return self._checkpoints.load()

    def register_model(
        self,
        model: torch.nn.Module | torch.export.ExportedProgram,
        example_inputs: Sequence[torch.Tensor] | None = None,
        *,
        signature: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        comment: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> int:
        """Add a version to the job's output model, ready to be served.

        Args:
            model: An exported program, or a module that is exported with `example_inputs`. It is
                called with one tensor per FEATURE input of the signature, in order, and returns
                one tensor or a tuple of them, one per output.
            example_inputs: For a module: one tensor per FEATURE input, with 2 or more rows; the
                number of rows stays free.
            signature: `{"inputs": [...], "outputs": [...]}`; each with `name`, `datatype` (of the
                Open Inference Protocol: FP32, INT64, BYTES ...), `shape` (-1 for any), inputs also
                with `role` (FEATURE or METADATA) and, where texts become numbers, `vocabulary`.
            metrics: The version's quality; written to the run, and as tags of the version.
            comment: What is particular about this version.
            tags: Tags to set on the version.

        Returns:
            The version's number; 0 in processes other than the first.

        Raises:
            ValueError: The job has no output model, or a module comes without examples.
            TesseraError: The catalog refused.
        """
        if not self._surroundings.output_model:
            raise ValueError("the job was submitted without an output model")
        if not self._is_first:
            return 0
        version: int = self._registrar.register(
            _program(model, example_inputs),
            {"inputs": signature["inputs"], "outputs": signature["outputs"]},
            comment=comment,
            tags={**{key: f"{value:g}" for key, value in (metrics or {}).items()}, **(tags or {})},
        )
        if metrics:
            self.log_metrics(metrics)
        stub: Any = JobRuntimeServiceStub(self._training.channel)
        report = training_service_pb2.ReportModelVersionRequest(
            job_id=self.id, model_name=self._surroundings.output_model, version=version
        )
        self._training.call(stub.ReportModelVersion, report)
        return version

    def flush(self) -> None:
        """Wait until metrics, progress and the last checkpoint are stored.

        Raises:
            TesseraError: Something was refused.
        """
        if self._is_first:
            self._checkpoints.finish()
            self._reporter.flush()

    def close(self) -> None:
        """Store what is pending and close the connections; happens by itself when the job ends."""
        if self._closed:
            return
        self._closed = True
        try:
            # Only what was used is there to be closed.
            if "_checkpoints" in self.__dict__:
                self._checkpoints.close()
        finally:
            if "_reporter" in self.__dict__:
                self._reporter.close()
            for door in (self._training, self._tracking, self._catalog):
                door.close()

    @property
    def _is_first(self) -> bool:
        return self._surroundings.rank == 0

    def _told_to_stop(self) -> bool:
        return "_reporter" in self.__dict__ and self._reporter.should_stop.is_set()

    @cached_property
    def _reader(self) -> TableReader:
        return TableReader(self._catalog, self._training, self._tracking, self._surroundings)

    @cached_property
    def _reporter(self) -> Reporter:
        return Reporter(self._training, self._tracking, self._surroundings)

    @cached_property
    def _checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self._training, self._surroundings)

    @cached_property
    def _registrar(self) -> Any:
        from tessera.jobs.models import ModelRegistrar

        return ModelRegistrar(self._catalog, self._surroundings)


def _number(value: Any) -> float:
    """A number, or a tensor of one element, also one that has a gradient."""
    return float(value.detach() if hasattr(value, "detach") else value)


def _program(model: Any, example_inputs: Sequence[torch.Tensor] | None) -> Any:
    import torch

    from tessera.jobs.models import export

    if isinstance(model, torch.export.ExportedProgram):
        return model
    if example_inputs is None:
        raise ValueError("a module needs example inputs to be exported")
    return export(model, example_inputs)
