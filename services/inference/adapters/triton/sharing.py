"""Large tensors by shared memory: a request names where they lie, and where the answer's shall.

Triton's system shared memory extension
(https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_shared_memory.html).
Where runtime and gateway are on one machine this spares both of them the bytes' way through a
socket and HTTP/2. Where they are not, the runtime cannot open the region, and all are sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Coroutine
from math import prod
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import aio, service_pb2
from tritonclient.utils import InferenceServerException

from services.inference.adapters.triton.region import Place, SharedRegion, stale_regions
from services.inference.domain.datatypes import DATATYPES
from services.inference.domain.fields import bytes_fields, split
from tessera_kit.tasks import detached_task

__all__ = ["LEAST_SHARED", "Loan", "TensorSharing"]

_log = logging.getLogger(__name__)

LEAST_SHARED: Final = 64 << 10
"""Bytes of a request, or of an output, from which on sharing costs less than sending."""
_CALL_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 30.0
_LEFT_SECONDS: Final = 600.0
_RELEASE_SECONDS: Final = (0.01, 0.1, 0.5)
_MOST_FORMS: Final = 64
_UNKNOWN_REGION: Final = "Unable to find shared memory region"
_NO_ROOM: Final = "shared memory size specified with the request for output"
_IN_USE: Final = "currently in use"
"""What Triton says; a model may speak of shared memory too, and is not to run again for it."""
_SEQUENCE_ID: Final = "sequence_id"
_RAW_REQUEST: Final = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_RAW_RESPONSE: Final = service_pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER

_Sizes = dict[str, int]
"""Bytes of each output by name, in the model's order; 0 for what is sent."""


class Loan:
    """A request whose tensors lie in the region, until `end`."""

    __slots__ = ("_form", "_outputs", "_place", "_sharing", "message")

    def __init__(
        self,
        sharing: TensorSharing,
        message: bytes,
        form: bytes,
        place: Place,
        outputs: dict[str, Place],
    ) -> None:
        self.message = message
        """The serialised `inference.ModelInferRequest`."""
        self._sharing = sharing
        self._form = form
        self._place = place
        self._outputs = outputs

    def take(self, response: bytes, ending: bytes) -> bytes:
        """The serialised response, from the one that the runtime sent: with all contents.

        Args:
            response: What it sent.
            ending: Fields that follow.
        """
        if not self._outputs:
            self._sharing.learn(self._form, response)
            return response + ending
        told = service_pb2.ModelInferResponse.FromString(response)
        sent = list(told.raw_output_contents)
        contents: list[bytes | memoryview] = []
        for output, raw in zip(told.outputs, sent, strict=True):
            place = self._outputs.get(output.name)
            if place is None:
                contents.append(raw)
            else:
                size = prod(output.shape) * _item_size(output)
                contents.append(self._sharing.view(place.offset, min(size, place.size)))
        del told.raw_output_contents[:]
        fields = bytes_fields(_RAW_RESPONSE, contents)
        return b"".join((told.SerializeToString(), *fields, ending))

    def refused(self, details: str) -> bool:
        """Whether the runtime failed the request for the region's sake; it can be sent instead."""
        return self._sharing.refused(self._form, details)

    def end(self) -> None:
        """Give the memory back: the runtime has answered."""
        self._sharing.give_back(self._place)

    def lose(self) -> None:
        """Keep the memory from others: the runtime may still write to it."""
        self._sharing.lose(self._place)


class TensorSharing:
    """Puts tensors where Triton reads them, once it has opened the region. Made where a loop runs.

    Args:
        target: `host:port` of Triton's gRPC door.
        owner: What alone uses regions that begin with its name, as a data directory.
        size: Most bytes of memory.
        left_seconds: After which nothing writes to the region of a process that was killed.
    """

    def __init__(
        self, target: str, owner: Path, size: int, left_seconds: float = _LEFT_SECONDS
    ) -> None:
        prefix = f"tessera_tensors_{hashlib.sha256(str(owner).encode()).hexdigest()[:12]}_"
        self._region = SharedRegion(prefix + secrets.token_hex(4), size)
        self._target = target
        self._opened = False
        self._registered = False
        self._told = False
        self._lost: list[Place] = []
        self._work: set[asyncio.Task[None]] = set()
        self._not_before = 0.0
        self._forms: dict[bytes, _Sizes] = {}
        if left := stale_regions(prefix):
            self._do(self._remove(left, left_seconds))

    def lend(self, request: bytes, suffix: bytes) -> Loan | None:
        """A request as the runtime gets it by the region; None for one that has to be sent.

        Args:
            request: A serialised `inference.ModelInferRequest` that was found to fit its model.
            suffix: Fields that follow it.
        """
        if not self._registered:
            self._register_soon()
            return None
        parts = split(request, _RAW_REQUEST)
        if parts is None:
            return None
        try:
            asked: Any = service_pb2.ModelInferRequest.FromString(parts.head + suffix)
        except DecodeError:
            return None
        # A model with state must not be asked again because its answer had no room.
        if (
            not asked.inputs
            or len(asked.inputs) != len(parts.values)
            or _SEQUENCE_ID in asked.parameters
        ):
            return None
        request_id = asked.id
        asked.id = ""
        form = asked.SerializeToString(deterministic=True)
        asked.id = request_id
        sizes = self._forms.get(form, {})
        place = self._region.lend(sum(map(_room, (*map(len, parts.values), *sizes.values()))))
        if place is None:
            return None
        offset = self._put(asked, parts.values, place.offset)
        outputs = self._ask_for(asked, sizes, offset)
        return Loan(self, asked.SerializeToString(), form, place, outputs)

    def learn(self, form: bytes, response: bytes) -> None:
        """Note how large the outputs to requests of a form are."""
        if form in self._forms:
            return
        if len(self._forms) >= _MOST_FORMS:
            self._forms.clear()
        told = service_pb2.ModelInferResponse.FromString(response)
        sizes = {
            output.name: len(raw) if len(raw) >= LEAST_SHARED and _item_size(output) else 0
            for output, raw in zip(told.outputs, told.raw_output_contents, strict=False)
        }
        self._forms[form] = sizes if any(sizes.values()) else {}

    def refused(self, form: bytes, details: str) -> bool:
        """Whether the runtime does not know the region, or an output was larger than before."""
        if _UNKNOWN_REGION in details and self._region.name in details:
            # It was started anew.
            self._registered, self._not_before = False, 0.0
        elif _NO_ROOM in details:
            self._forms[form] = {}
        else:
            return False
        return True

    def view(self, offset: int, size: int) -> memoryview:
        """Bytes of the region."""
        return self._region.view(offset, size)

    def give_back(self, place: Place) -> None:
        """End a loan."""
        self._region.give_back(place)

    def lose(self, place: Place) -> None:
        """Lend a part to nobody any more before another process is the runtime."""
        self._lost.append(place)

    async def close(self) -> None:
        """Remove the region, and tell the runtime so if it is in no use."""
        for task in list(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        if self._registered and not self._region.lent:
            async with aio.InferenceServerClient(self._target) as client:
                await self._forget(client, self._region.name)
        self._registered = False
        self._region.close()

    def _put(self, asked: Any, contents: list[memoryview], offset: int) -> int:
        for tensor, content in zip(asked.inputs, contents, strict=True):
            self._region.view(offset, len(content))[:] = content
            self._point(tensor, offset, len(content))
            offset += _room(len(content))
        return offset

    def _ask_for(self, asked: Any, sizes: _Sizes, offset: int) -> dict[str, Place]:
        outputs: dict[str, Place] = {}
        if not sizes:
            return outputs
        if not asked.outputs:
            for name in sizes:
                asked.outputs.add(name=name)
        for output in asked.outputs:
            size = sizes.get(output.name, 0)
            if size:
                outputs[output.name] = Place(offset, size)
                self._point(output, offset, size)
                offset += _room(size)
        return outputs

    def _point(self, tensor: Any, offset: int, size: int) -> None:
        """Tell where the contents of an input or output lie."""
        parameters = tensor.parameters
        parameters.pop("binary_data_size", None)
        parameters["shared_memory_region"].string_param = self._region.name
        parameters["shared_memory_offset"].int64_param = offset
        parameters["shared_memory_byte_size"].int64_param = size

    def _register_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            return
        # One attempt at a time; requests are sent meanwhile.
        self._not_before = loop.time() + _AGAIN_SECONDS
        self._do(self._register())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = detached_task(work, name="tensor-sharing")
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _register(self) -> None:
        try:
            if not self._opened:
                self._region.open()
                self._opened = True
            async with aio.InferenceServerClient(self._target) as client:
                await self._forget(client, self._region.name)
                await client.register_system_shared_memory(
                    self._region.name,
                    f"/{self._region.name}",
                    self._region.size,
                    client_timeout=_CALL_SECONDS,
                )
        except (OSError, InferenceServerException) as error:
            level, self._told = logging.DEBUG if self._told else logging.INFO, True
            _log.log(level, "tensors are sent, as the runtime shares no memory: %s", error)
            return
        lost, self._lost = self._lost, []
        for place in lost:
            self._region.give_back(place)
        self._registered = True

    async def _remove(self, left: list[str], after: float) -> None:
        """Remove what a killed process left, once no model of its last requests writes to it."""
        await asyncio.sleep(after)
        async with aio.InferenceServerClient(self._target) as client:
            for name in left:
                await self._forget(client, name)
                SharedRegion.remove(name)

    async def _forget(self, client: Any, name: str) -> None:
        for pause in (*_RELEASE_SECONDS, None):
            try:
                await client.unregister_system_shared_memory(name, client_timeout=_CALL_SECONDS)
                return
            except InferenceServerException as error:
                # It may not know of it; or it has not done with the request that it answered last.
                if _IN_USE not in str(error) or pause is None:
                    return
            await asyncio.sleep(pause)


def _item_size(output: Any) -> int:
    """Bytes of an element; 0 where elements tell their own, and Triton not that of all."""
    datatype = DATATYPES.get(output.datatype)
    return datatype.size if datatype is not None else 0


def _room(size: int) -> int:
    """Bytes between the begin of a tensor and that of the next."""
    return -(-size // 64) * 64
