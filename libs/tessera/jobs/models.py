"""Models as exported programs with a manifest, added to the job's registered model."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tessera.catalog.v1 import model_pb2
from tessera.catalog.v1 import model_service_pb2 as pb
from tessera.catalog.v1.model_service_pb2_grpc import ModelServiceStub
from tessera.jobs.calls import Door, file_chunks
from tessera.jobs.surroundings import Surroundings

__all__ = ["ModelRegistrar", "export"]

_PROGRAM = "model.pt2"
_MANIFEST = "model.json"
_FLAVOR = "torch_export"
_FILE_SECONDS = 3600.0


def export(module: torch.nn.Module, example_inputs: Sequence[torch.Tensor]) -> Any:
    """Export a module for any number of rows.

    Args:
        module: Called with one tensor per input; a copy of it is exported, in evaluation mode on
            the CPU.
        example_inputs: One tensor per input, each with at least 2 rows; the first dimension of each
            stays free, the others are fixed.

    Returns:
        A `torch.export.ExportedProgram`.

    Raises:
        ValueError: An example has fewer than 2 rows: export would take 1 for a constant.
    """
    examples = tuple(example.detach().cpu() for example in example_inputs)
    if any(example.dim() < 1 or example.shape[0] < 2 for example in examples):
        raise ValueError("each example input needs 2 or more rows, so that their number stays free")
    # Each input is a tensor of its own, or the shapes of two would be one entry.
    examples = tuple(example.clone() for example in examples)
    shapes = torch.export.ShapesCollection()
    for example in examples:
        shapes[example] = {0: torch.export.Dim.DYNAMIC}
    # Of a copy: training goes on with the module on its GPU, and changes nothing that was exported.
    frozen = copy.deepcopy(module).cpu().eval()
    return torch.export.export(frozen, examples, dynamic_shapes=shapes)


class ModelRegistrar:
    """Adds versions to a registered model.

    Args:
        door: The catalog.
        surroundings: Which model, and for which run.
    """

    def __init__(self, door: Door, surroundings: Surroundings) -> None:
        self._door = door
        self._stub: Any = ModelServiceStub(door.channel)
        self._surroundings = surroundings
        self._count = 0

    def register(
        self, program: Any, manifest: Mapping[str, Any], *, comment: str, tags: Mapping[str, str]
    ) -> int:
        """Upload a program with its manifest as the next version; returns the version's number.

        A job that is tried again gets the version that its earlier attempt began, so that no run
        leaves two.

        Args:
            program: A `torch.export.ExportedProgram`.
            manifest: `inputs` and `outputs` of `model.json`.
            comment: What is particular about the version.
            tags: Tags to set.

        Raises:
            TesseraError: The catalog refused.
        """
        self._count += 1
        where = self._surroundings
        request = pb.CreateModelVersionRequest(
            model_name=where.output_model,
            run_id=where.run_id,
            comment=comment,
            tags=tags,
            request_id=f"{where.job_id}#{self._count}",
        )
        made = self._door.call(self._stub.CreateModelVersion, request).model_version
        if made.status == model_pb2.MODEL_VERSION_STATUS_PENDING_REGISTRATION:
            with tempfile.TemporaryDirectory() as folder:
                self._upload(made, _write(Path(folder), program, manifest))
            end = pb.FinalizeModelVersionRequest(model_name=made.model_name, version=made.version)
            self._door.call(self._stub.FinalizeModelVersion, end)
        return int(made.version)

    def _upload(self, version: model_pb2.ModelVersion, files: Sequence[Path]) -> None:
        for file in files:
            messages = _messages(version, file)
            self._door.call(self._stub.UploadModelFile, messages, timeout=_FILE_SECONDS)


def _write(folder: Path, program: Any, manifest: Mapping[str, Any]) -> Sequence[Path]:
    model, description = folder / _PROGRAM, folder / _MANIFEST
    torch.export.save(program, model)
    content = {"flavor": _FLAVOR, "file": _PROGRAM, **manifest}
    description.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    # The manifest comes last: with it the version is whole.
    return (model, description)


def _messages(version: model_pb2.ModelVersion, file: Path) -> Callable[[], Iterator[object]]:
    digest = hashlib.sha256()
    for chunk in file_chunks(file):
        digest.update(chunk)
    header = pb.UploadModelFileHeader(
        model_name=version.model_name,
        version=version.version,
        path=file.name,
        sha256=digest.hexdigest(),
    )

    def messages() -> Iterator[object]:
        yield pb.UploadModelFileRequest(header=header)
        for chunk in file_chunks(file):
            yield pb.UploadModelFileRequest(chunk=chunk)

    return messages
