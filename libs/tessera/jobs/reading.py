"""Tables that a job reads, and the note that it read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tessera.catalog.v1 import table_data_service_pb2
from tessera.catalog.v1.table_data_service_pb2_grpc import TableDataServiceStub
from tessera.client.predicates import Condition, predicates
from tessera.jobs.calls import Door
from tessera.jobs.surroundings import Surroundings
from tessera.tracking.v1 import tracking_pb2, tracking_service_pb2
from tessera.tracking.v1.tracking_service_pb2_grpc import TrackingServiceStub
from tessera.training.v1 import training_service_pb2
from tessera.training.v1.training_service_pb2_grpc import JobRuntimeServiceStub
from tessera_kit.errors import NotFound, PermissionDenied

if TYPE_CHECKING:
    import pyarrow

__all__ = ["TableReader"]


class TableReader:
    """Reads tables; each becomes an input of the job, its run and their lineage.

    Args:
        catalog: Has the rows.
        training: Takes note for the job and the lineage.
        tracking: Takes note for the run.
        surroundings: Of which job and run.
    """

    def __init__(
        self, catalog: Door, training: Door, tracking: Door, surroundings: Surroundings
    ) -> None:
        self._catalog, self._training, self._tracking = catalog, training, tracking
        self._job_id, self._run_id = surroundings.job_id, surroundings.run_id
        self._rows: Any = TableDataServiceStub(catalog.channel)
        self._runtime: Any = JobRuntimeServiceStub(training.channel)
        self._runs: Any = TrackingServiceStub(tracking.channel)
        self._noted: set[tuple[str, str]] = set()

    def read(
        self,
        full_name: str,
        *,
        columns: Sequence[str],
        where: Iterable[Condition],
        order_by: Sequence[str],
        limit: int,
    ) -> pyarrow.Table:
        """Read rows into memory; see `Job.read_table`."""
        import pyarrow

        request = table_data_service_pb2.ReadTableRequest(
            full_name=full_name,
            columns=columns,
            predicates=predicates(where),
            order_by=order_by,
            limit=limit,
        )

        def take(responses: Iterator[Any]) -> pyarrow.Table:
            buffer = pyarrow.BufferOutputStream()
            for response in responses:
                buffer.write(response.arrow_ipc)
            return pyarrow.ipc.open_stream(buffer.getvalue()).read_all()

        self._note(full_name)
        return self._catalog.gather(self._rows.ReadTable, request, take)

    def _note(self, full_name: str) -> None:
        report = training_service_pb2.ReportInputTableRequest(
            job_id=self._job_id, table_full_name=full_name
        )
        try:
            version = self._training.call(self._runtime.ReportInputTable, report).version
        except (NotFound, PermissionDenied):
            # The read itself will tell, in the catalog's words.
            return
        if not version or (full_name, version) in self._noted:
            return
        data_set = tracking_pb2.DatasetInput(name=full_name, digest=version, context="training")
        batch = tracking_service_pb2.LogBatchRequest(run_id=self._run_id, inputs=[data_set])
        self._tracking.call(self._runs.LogBatch, batch)
        self._noted.add((full_name, version))
