"""What a flavor of models is to the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.inference.domain.signature import Signature

__all__ = ["FlavorRule"]

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class FlavorRule:
    """How files of a model version become files of a bundle, and what loads these.

    A flavor is one module of this package with its rule, one entry in `flavors.FLAVORS`, and one
    loader among `runtime.programs`.
    """

    loader: str
    """Module of `runtime.programs` whose `load` makes the model in the runtime."""
    files: Callable[[Signature, Files], Files]
    """From the version's files by path to the bundle's by name, below the folder `1`, checked.

    Raises:
        InvalidArchive: They are not safe to load, or no model of the flavor.
    """
    file: str
    """Which of the bundle's files the loader loads."""
    sources: Callable[[Signature, str], bool] = lambda signature, path: path == signature.file
    """Whether a path of the version's files is one that `files` needs."""
    settings: Callable[[Signature], Mapping[str, Any]] = lambda _: {}
    """What `signature.json` holds for the loader alone."""
    program: str = "triton_model"
    """Module of `runtime.programs` that Triton runs."""
