"""Requests that fitted before are known by their form: all that they say before their contents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from services.inference.gateway.wire import text_field

__all__ = ["Forms", "Needs"]

Needs: TypeAlias = tuple[int, ...]
"""What each input's raw contents must be: so many bytes, or where negative so many texts."""

_NAME, _VERSION, _ID = 1, 2, 3
_LONGEST: Final = 2048
_MOST: Final = 64


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

    def __init__(self, holds_texts: Callable[[bytes, int], bool]) -> None:
        self._forms: dict[bytes, Needs] = {}
        self._holds_texts = holds_texts

    def fits(self, request: Any, told: bytes) -> bool:
        """Whether a request is known to fit, whatever its id; when not, nothing is known of it.

        Args:
            request: An `inference.ModelInferRequest`.
            told: The same, serialised by its caller.
        """
        contents = list(request.raw_input_contents)
        needs = self._forms.get(_form(request, told, contents))
        if needs is None or len(needs) != len(contents):
            return False
        for need, content in zip(needs, contents, strict=True):
            if need < 0:
                if not self._holds_texts(content, -need):
                    return False
            elif need != len(content):
                return False
        return True

    def learn(self, request: Any, told: bytes, needs: Needs) -> None:
        """Know the form of a request with raw contents that was found to fit."""
        form = _form(request, told, request.raw_input_contents)
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
        self._forms[form] = needs


def _form(request: Any, told: bytes, contents: Sequence[bytes]) -> bytes:
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
