"""The environments that processes get: nothing of the caller's shell but what they need."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from devstack.home import Home

_INHERITED = (
    "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
HOME_MARK = "TESSERA_STACK_HOME"
"""Marks every supervised process: the next supervisor finds what a killed one left running."""


def engine_environment(home: Home) -> dict[str, str]:
    """The environment of an engine."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        HOME_MARK: str(home.root),
    }


def python_environment(home: Home) -> dict[str, str]:
    """The environment of a Python process of ours."""
    return {
        **engine_environment(home),
        "PYTHONUNBUFFERED": "1",
        # glibc gives each thread an arena; two are enough for processes that coordinate.
        "MALLOC_ARENA_MAX": "2",
    }


def service_environment(home: Home, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a platform service.

    Its jobs may fetch through the caller's proxies; loopback never goes through one.
    """
    proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    quiet = {"no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}
    return {**python_environment(home), **proxies, **(quiet if proxies else {}), **settings}
