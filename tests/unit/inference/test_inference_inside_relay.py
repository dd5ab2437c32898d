"""The compiled relay: made once where there is a compiler, and done without where there is none."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
from pathlib import Path

import pytest

from services.inference.adapters.triton_inside.relay import compiled

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def compiler(folder: Path, script: str) -> None:
    """A `cc` that is a script."""
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that is searched for programs."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@NEEDS_COMPILER
def test_it_is_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kept" / "here"
    made = compiled(folder)
    assert made is not None
    assert list(folder.iterdir()) == [made]
    library = ctypes.CDLL(str(made))
    for name in ("relay_allocate", "relay_free", "relay_respond", "relay_release"):
        assert getattr(library, name)
    before = made.stat()
    monkeypatch.setenv("PATH", os.devnull)
    assert compiled(folder) == made
    assert made.stat().st_mtime_ns == before.st_mtime_ns


def test_without_a_compiler_there_is_none(
    programs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert compiled(tmp_path / "kept") is None
    assert list(programs.iterdir()) == []
    assert not (tmp_path / "kept").exists()
    assert "there is no C compiler" in caplog.text


def test_a_compiler_that_fails_leaves_no_file(
    programs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # It writes part of what was asked for, and then fails.
    compiler(programs, 'while [ "$1" != -o ]; do shift; done; echo half > "$2"; exit 1')
    assert compiled(tmp_path / "kept") is None
    assert list((tmp_path / "kept").iterdir()) == []
    assert "answers pass through Python" in caplog.text


def test_a_compiler_that_writes_nothing_has_failed(programs: Path, tmp_path: Path) -> None:
    compiler(programs, "exit 0")
    assert compiled(tmp_path / "kept") is None
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_compiler_that_cannot_run_has_failed(programs: Path, tmp_path: Path) -> None:
    path = programs / "cc"
    path.write_bytes(b"\0no program")
    path.chmod(0o755)
    assert compiled(tmp_path / "kept") is None
    assert list((tmp_path / "kept").iterdir()) == []
