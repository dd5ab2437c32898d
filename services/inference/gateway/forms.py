"""Requests that fitted before are known by their form: all that they say before their contents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from services.inference.domain.fields import Piece, text_field

__all__ = ["WITHOUT_EFFECT", "Fit", "Form", "Forms", "Needs"]

Needs: TypeAlias = tuple[int, ...]
"""What each input's raw contents must be: so many bytes, or where negative so many texts."""

_NAME, _VERSION, _ID = 1, 2, 3
_LONGEST: Final = 2048
_MOST: Final = 64
WITHOUT_EFFECT: Final = frozenset({"triton_enable_empty_final_response"})
"""perf_analyzer sends it along; it has a meaning only for streams."""


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What requests say before their contents; forms are told apart by identity."""

    needs: Needs
    rows: int
    """Rows of each input; 0 where a request has none."""
    asks: Any
    """An `inference.ModelInferRequest` that says the same, without contents."""
    joins: bool
    """Whether rows of such requests can stand in one request; parameters are each one's own."""


class Fit(NamedTuple):
    """A request of a known form."""

    form: Form
    contents: list[Piece]
    """Raw contents of its inputs, in the form's order."""


class Forms:
    """The forms of requests that an endpoint's rules let pass.

    Callers say the same of their inputs again and again. A form is what a serialised
    `inference.ModelInferRequest` holds between its id and its raw contents. Where the bytes before
    it are the name, version and id as they are written, and those behind it are as many as the raw
    contents take at least, neither can hold anything else: so equal forms say the same of the
    inputs, in whatever order other writers put their fields.

    Args:
        holds_texts: Whether raw contents are so many texts.
    """

    __slots__ = ("_forms", "_holds_texts")

    def __init__(self, holds_texts: Callable[[Piece, int], bool]) -> None:
        self._forms: dict[bytes, Form] = {}
        self._holds_texts = holds_texts

    def fit(self, request: Any, told: bytes, raw: Sequence[Piece]) -> Fit | None:
        """The form that a request is known to fit, whatever its id; None tells nothing of it.

        Args:
            request: An `inference.ModelInferRequest`.
            told: The same, serialised by its caller.
            raw: Its raw contents.
        """
        contents = list(raw)
        form = self._forms.get(_form(request, told, contents))
        if form is None or len(form.needs) != len(contents):
            return None
        for need, content in zip(form.needs, contents, strict=True):
            if need < 0:
                if not self._holds_texts(content, -need):
                    return None
            elif need != len(content):
                return None
        return Fit(form, contents)

    def learn(
        self, request: Any, told: bytes, raw: Sequence[Piece], needs: Needs, rows: int
    ) -> None:
        """Know the form of a request with raw contents that was found to fit.

        Args:
            request: An `inference.ModelInferRequest`.
            told: The same, serialised by its caller.
            raw: Its raw contents.
            needs: What each of its raw contents must be.
            rows: How many rows it has; 0 where requests have none.
        """
        form = _form(request, told, raw)
        if not 0 < len(form) <= _LONGEST:
            return
        try:
            alone = service_pb2.ModelInferRequest.FromString(form)
        except DecodeError:
            return
        if alone.model_name or alone.model_version or alone.id or alone.raw_input_contents:
            return
        if len(self._forms) >= _MOST:
            self._forms.clear()
        joins = rows > 0 and set(alone.parameters) <= WITHOUT_EFFECT
        self._forms[form] = Form(needs, rows, alone, joins)


def _form(request: Any, told: bytes, contents: Sequence[Piece]) -> bytes:
    """The form of a request; empty where it is not written in the order of its fields."""
    start = text_field(_NAME, request.model_name)
    if request.model_version:
        start += text_field(_VERSION, request.model_version)
    if request.id:
        start += text_field(_ID, request.id)
    if not told.startswith(start):
        return b""
    end = len(told)
    for content in contents:
        size = len(content)
        end -= size + (2 if size < 0x80 else 1 + (size.bit_length() + 6) // 7)
    return told[len(start) : end]
