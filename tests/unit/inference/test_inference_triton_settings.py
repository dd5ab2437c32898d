"""Where Triton is: what settings say of it, and what of them its models' processes see."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.inference.__main__ import _hide_settings
from services.inference.adapters.triton.errors import load_failure
from tessera_kit.config import ConfigError, TritonConfig

LIBRARY = {
    "TESSERA_TRITON_LIBRARY": "/triton/libtritonserver.so",
    "TESSERA_TRITON_BACKENDS": "/triton/backends",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}
TARGET = {"TESSERA_TRITON_GRPC_TARGET": "triton:8001"}


def test_a_library_comes_with_its_folders() -> None:
    config = TritonConfig.from_env({**LIBRARY, "TESSERA_TRITON_CACHES": "/elsewhere/caches"})
    assert config.library == Path("/triton/libtritonserver.so")
    assert config.backends == Path("/triton/backends")
    assert config.caches == Path("/elsewhere/caches")
    assert config.grpc_target == ""


def test_caches_are_beside_the_library_unless_said_otherwise() -> None:
    assert TritonConfig.from_env(LIBRARY).caches == Path("/triton/caches")


def test_a_library_without_backends_is_told_by_the_variable() -> None:
    only = {name: value for name, value in LIBRARY.items() if not name.endswith("BACKENDS")}
    with pytest.raises(ConfigError, match="TESSERA_TRITON_BACKENDS"):
        TritonConfig.from_env({**only, **TARGET})


@pytest.mark.parametrize("text", [None, "1", "false"])
def test_grpc_must_not_follow_forks(text: str | None) -> None:
    said = {} if text is None else {"GRPC_ENABLE_FORK_SUPPORT": text}
    with pytest.raises(ConfigError, match="GRPC_ENABLE_FORK_SUPPORT must be 0"):
        TritonConfig.from_env({**LIBRARY, "GRPC_ENABLE_FORK_SUPPORT": "", **said})


def test_a_target_alone_will_do() -> None:
    config = TritonConfig.from_env(TARGET)
    assert (config.grpc_target, config.library) == ("triton:8001", None)


def test_both_may_be_there() -> None:
    config = TritonConfig.from_env({**LIBRARY, **TARGET})
    assert (config.grpc_target, config.library) == (
        "triton:8001",
        Path("/triton/libtritonserver.so"),
    )


def test_neither_is_told_by_the_variable() -> None:
    with pytest.raises(ConfigError, match="TESSERA_TRITON_GRPC_TARGET"):
        TritonConfig.from_env({})


def test_processes_of_models_inherit_no_settings() -> None:
    environment = {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/triton",
        "TESSERA_STACK_HOME": "/home",
        "TESSERA_S3_SECRET_KEY": "secret",
        "TESSERA_INFERENCE_DATABASE_URL": "postgresql://user:secret@host/inference",
        "TESSERA_": "",
        "MY_TESSERA_": "kept",
    }
    _hide_settings(environment)
    assert environment == {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/triton",
        "TESSERA_STACK_HOME": "/home",
        "MY_TESSERA_": "kept",
    }


@pytest.mark.parametrize(
    ("details", "told"),
    [
        ("no such backend", "no such backend"),
        (
            "version 1 is at UNAVAILABLE state: Internal: Error: it lies\n\nAt:\n  a(1): b\n;",
            "Error: it lies",
        ),
        (
            "version 1 is at UNAVAILABLE state: Invalid argument: first\nsecond",
            "first\nsecond",
        ),
        ("state: Internal: first\nsecond\n\nAt:\n  a(1): b\n;", "first\nsecond"),
        ("state: Internal: without a place", "without a place"),
        ("", ""),
    ],
)
def test_a_failed_load_is_told_without_the_runtimes_own_words(details: str, told: str) -> None:
    assert load_failure(details) == f"the model cannot be loaded: {told}"


def test_a_failed_load_is_told_at_some_length() -> None:
    assert len(load_failure("x" * 10_000)) < 1100
