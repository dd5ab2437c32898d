"""Checks an inference request against the endpoint's signature, before the runtime sees it.

The runtime is older than fixes of flaws that unchecked requests reach, so nothing passes that the
signature does not describe: no shared memory, no unknown input or output, no length that lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from services.inference.domain.datatypes import DATATYPES, Datatype
from services.inference.domain.fields import Piece
from services.inference.domain.signature import Role, Signature, TensorSpec
from services.inference.errors import InvalidInference
from services.inference.gateway.forms import WITHOUT_EFFECT, Fit, Forms
from tessera_kit.errors import FieldViolation

__all__ = ["LONGEST_CLIENT_ID", "SEQUENCE_ID", "RequestRules", "sequence_of"]

SEQUENCE_ID: Final = "sequence_id"
"""Parameter of a request: which sequence it belongs to, a number or a text."""

LONGEST_CLIENT_ID: Final = 512
"""Longest `id` that a caller may give a request, in characters."""
_MOST_PARAMETERS: Final = 64
_TOLD_SIZE: Final = frozenset({"binary_data_size"})
"""KServe's client sends it along with raw contents, whose length says the same."""
_RESERVED_PARAMETERS: Final = ("triton_", "sequence_", "shared_memory_", "binary_data")
_SEQUENCE_FLAGS: Final = ("sequence_start", "sequence_end")
_LONGEST_SEQUENCE: Final = 128


@dataclass(frozen=True, slots=True)
class _InputRule:
    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    required: bool


@dataclass(frozen=True, slots=True)
class _Head:
    """What an input says of itself, once it is known to fit the signature."""

    name: str
    rows: int
    count: int
    """Elements."""
    size: int
    """Bytes of its raw contents; 0 for texts, which say their lengths themselves."""


class RequestRules:
    """The rules of one endpoint, prepared once.

    Args:
        signature: What its models take and give.
        max_rows: Most rows of one request, where rows can be put together.
        sequences: Whether each request belongs to a sequence.
    """

    __slots__ = (
        "_batched",
        "_forms",
        "_inputs",
        "_max_rows",
        "_outputs",
        "_required",
        "_sequences",
    )

    def __init__(self, signature: Signature, max_rows: int, *, sequences: bool = False) -> None:
        self._sequences = sequences
        self._batched = signature.batched
        self._max_rows = max_rows
        self._inputs = {spec.name: _rule(spec) for spec in signature.inputs}
        self._required = frozenset(name for name, rule in self._inputs.items() if rule.required)
        self._outputs = frozenset(spec.name for spec in signature.outputs)
        self._forms = Forms(lambda raw, count: _texts(raw, count) is None)

    def check(self, request: Any, told: bytes, raw: Sequence[Piece]) -> Fit | None:
        """Raise InvalidInference unless a request fits the signature.

        Args:
            request: An `inference.ModelInferRequest`.
            told: The same, serialised by its caller.
            raw: Its raw contents, which need not be in the parsed request.

        Returns:
            The form of requests before it that it shares; None for the first of a form, and for
            those that are not known by one.
        """
        if len(request.id) <= LONGEST_CLIENT_ID:
            fit = self._forms.fit(request, told, raw)
            if fit is not None:
                return fit
        needs: list[int] = []
        violations = list(self._violations(request, raw, needs))
        if violations:
            first = violations[0]
            raise InvalidInference(f"{first.field}: {first.description}", violations=violations)
        if raw:
            rows = request.inputs[0].shape[0] if self._batched else 0
            self._forms.learn(request, told, raw, tuple(needs), rows)
        return None

    def _violations(
        self, request: Any, raw: Sequence[Piece], needs: list[int]
    ) -> Iterator[FieldViolation]:
        """What does not fit; `needs` is told what each input's raw contents must be."""
        if len(request.id) > LONGEST_CLIENT_ID:
            yield FieldViolation("id", f"must have at most {LONGEST_CLIENT_ID} characters")
        if request.parameters:
            yield from _parameters(request.parameters, self._sequences)
        if self._sequences:
            yield from _sequence(request.parameters)
        inputs = request.inputs
        if raw and len(raw) != len(inputs):
            yield FieldViolation(
                "raw_input_contents",
                f"has {len(raw)} entries for {len(inputs)} inputs; give one for each, in order",
            )
            return
        seen: set[str] = set()
        rows = 0
        for index, tensor in enumerate(inputs):
            found = self._look(tensor, raw[index]) if raw else self._look_at_typed(tensor)
            if isinstance(found, _Head):
                name = found.name
                needs.append(found.size or -found.count)
                problem = "is given twice" if name in seen else None
                if problem is None and self._batched:
                    rows = rows or found.rows
                    problem = self._row_problem(found.rows, rows)
            else:
                name, problem = tensor.name, found
            if problem is not None:
                yield FieldViolation(f"inputs[{index}] {name[:128]!r}", problem)
            seen.add(name)
        for name in sorted(self._required - seen):
            yield FieldViolation(f"inputs {name!r}", "is missing")
        if request.outputs:
            yield from self._output_violations(request.outputs)

    def _look(self, tensor: Any, raw: Piece) -> _Head | str:
        """The head of an input with raw contents, or what is wrong with it."""
        head = self._fit(tensor)
        if isinstance(head, str):
            return head
        if tensor.HasField("contents"):
            return "has contents beside raw_input_contents"
        if not head.size:
            return _texts(raw, head.count) or head
        if len(raw) != head.size:
            return f"has {len(raw)} bytes of raw contents; its shape needs {head.size}"
        return head

    def _look_at_typed(self, tensor: Any) -> _Head | str:
        """The head of an input with typed contents, or what is wrong with it."""
        head = self._fit(tensor)
        if isinstance(head, str):
            return head
        datatype = self._inputs[head.name].datatype
        return _typed_content(datatype, tensor.contents, head.count) or head

    def _fit(self, tensor: Any) -> _Head | str:
        """The head of an input, or what of it does not fit the signature."""
        rule = self._inputs.get(tensor.name)
        if rule is None:
            return f"there is no such input; the endpoint takes {_listed(self._inputs)}"
        shape = tuple(tensor.shape)
        problem = _mismatch(rule, tensor, shape)
        if problem is not None:
            return problem
        count = prod(shape)
        return _Head(rule.name, shape[0] if shape else 0, count, count * rule.datatype.size)

    def _row_problem(self, got: int, rows: int) -> str | None:
        if got != rows:
            return f"has {got} rows while the first input has {rows}"
        if got > self._max_rows:
            return f"has {got} rows; a request may have at most {self._max_rows}"
        return None

    def _output_violations(self, outputs: Any) -> Iterator[FieldViolation]:
        seen: set[str] = set()
        for index, output in enumerate(outputs):
            path = f"outputs[{index}] {output.name[:128]!r}"
            if output.name not in self._outputs:
                yield FieldViolation(
                    path, f"there is no such output; the endpoint gives {_listed(self._outputs)}"
                )
            elif output.name in seen:
                yield FieldViolation(path, "is asked for twice")
            elif output.parameters:
                yield FieldViolation(path, "parameters of outputs are not served")
            seen.add(output.name)


def _rule(spec: TensorSpec) -> _InputRule:
    return _InputRule(
        spec.name, DATATYPES[spec.datatype], spec.shape, spec.role is not Role.METADATA
    )


def _mismatch(rule: _InputRule, tensor: Any, shape: tuple[int, ...]) -> str | None:
    """What of the tensor's head does not fit."""
    if tensor.datatype != rule.datatype.name:
        return f"must be {rule.datatype.name}, not {tensor.datatype[:32]!r}"
    if len(shape) != len(rule.shape):
        return f"must have shape {_shape(rule.shape)}, not {list(shape)}"
    for got, want in zip(shape, rule.shape, strict=True):
        if got < 1 or (want != -1 and got != want):
            return f"must have shape {_shape(rule.shape)}, not {list(shape)}"
    if tensor.parameters and set(tensor.parameters) != _TOLD_SIZE:
        return "parameters of inputs, as of shared memory, are not served"
    return None


def _texts(raw: Piece, count: int) -> str | None:
    """What is wrong with `count` texts, each after its length in 4 bytes, little-endian."""
    position, end, found = 0, len(raw), 0
    while position + 4 <= end:
        position += 4 + int.from_bytes(raw[position : position + 4], "little")
        found += 1
        if found > count:
            break
    if position != end:
        return "has raw contents that end within a text"
    if found != count:
        return f"has {found} texts; its shape needs {count}"
    return None


def _typed_content(datatype: Datatype, contents: Any, count: int) -> str | None:
    if not datatype.contents:
        return f"{datatype.name} must be sent as raw_input_contents"
    for field, values in contents.ListFields():
        if field.name != datatype.contents:
            return f"has {field.name}; {datatype.name} is sent in {datatype.contents}"
        if len(values) != count:
            return f"has {len(values)} elements; its shape needs {count}"
        return None
    return f"has no {datatype.contents}; its shape needs {count} elements"


def _parameters(parameters: Any, sequences: bool) -> Iterator[FieldViolation]:
    if len(parameters) > _MOST_PARAMETERS:
        yield FieldViolation("parameters", f"must be at most {_MOST_PARAMETERS}")
    for name in parameters:
        if sequences and name in (SEQUENCE_ID, *_SEQUENCE_FLAGS):
            continue
        if name.startswith(_RESERVED_PARAMETERS) and name not in WITHOUT_EFFECT:
            yield FieldViolation(f"parameters[{name[:64]!r}]", "is not served")


def _sequence(parameters: Any) -> Iterator[FieldViolation]:
    path = f"parameters[{SEQUENCE_ID!r}]"
    if not sequence_of(parameters):
        yield FieldViolation(
            path, "is missing: the model keeps state, so a request names its sequence; not 0"
        )
    elif len(sequence_of(parameters)) > _LONGEST_SEQUENCE:
        yield FieldViolation(path, f"must have at most {_LONGEST_SEQUENCE} characters")
    for name in _SEQUENCE_FLAGS:
        if name in parameters and parameters[name].WhichOneof("parameter_choice") != "bool_param":
            yield FieldViolation(f"parameters[{name!r}]", "must be true or false")


def sequence_of(parameters: Any) -> str:
    """The sequence that a request's parameters name; empty for none."""
    if SEQUENCE_ID not in parameters:
        return ""
    told = parameters[SEQUENCE_ID]
    return str(getattr(told, told.WhichOneof("parameter_choice") or "string_param") or "")


def _shape(shape: tuple[int, ...]) -> str:
    return str([size if size != -1 else "any" for size in shape]).replace("'", "")


def _listed(names: Any) -> str:
    shown = sorted(names)
    return ", ".join(map(repr, shown[:20])) + (", …" if len(shown) > 20 else "")
