"""The niceness of a job's session: asked for again when the kernel puts it off, else settled."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from services.training.supervisor.ranks import nice_session


def test_what_is_put_off_is_to_be_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe answers EAGAIN, as the kernel does within 100 ms of the last change."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    monkeypatch.setattr(Path, "open", lambda *_, **options: os.fdopen(writer, "wb", **options))
    assert not nice_session(5)
    os.close(reader)


def test_a_kernel_without_it_and_a_refusal_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nice_session(99)
    monkeypatch.setattr(Path, "open", lambda *_, **__: os.open("/no/such/file", os.O_WRONLY))
    assert nice_session(5)
