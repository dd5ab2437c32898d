"""Classes of a model's own code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["class_of"]


def class_of(code: Path, entry: str) -> Callable[..., Any]:
    """The class `module:Class` of a model's folder of code, which becomes importable.

    Raises:
        ImportError: It is not there; classes from anywhere else do not count.
    """
    name, _, attribute = entry.partition(":")
    sys.path.insert(0, str(code))
    module = importlib.import_module(name)
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).resolve().is_relative_to(code.resolve()):
        raise ImportError(f"{name!r} is not in the model's own folder 'code'")
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        raise ImportError(f"{name!r} has no class {attribute!r}")
    return found
