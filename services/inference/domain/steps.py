"""The steps that a pipeline's manifest names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["PipelineStep", "read_steps"]

_MOST_STEPS: Final = 16
_full_name = re.compile(r"[^.\s/]{1,255}(\.[^.\s/]{1,255}){2}\Z").match


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """A model version that a pipeline runs."""

    model_name: str
    model_version: int
    inputs: tuple[tuple[str, str], ...] = ()
    """Which tensor of the pipeline each of its inputs is; that of its own name when not here."""
    outputs: tuple[tuple[str, str], ...] = ()
    """Which tensor of the pipeline each of its outputs becomes; likewise."""

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"version {self.model_version} of {self.model_name}"


def read_steps(entries: Any, wrong: Callable[[str, str], None]) -> tuple[PipelineStep, ...]:
    """The steps of a manifest.

    Args:
        entries: What it holds as `steps`.
        wrong: Told the field and the description of everything that is wrong.
    """
    if not isinstance(entries, list) or not 1 <= len(entries) <= _MOST_STEPS:
        wrong("steps", f"must be a list of 1 to {_MOST_STEPS} model versions")
        return ()
    return tuple(_step(entry, f"steps[{index}]", wrong) for index, entry in enumerate(entries))


def _step(entry: Any, path: str, wrong: Callable[[str, str], None]) -> PipelineStep:
    if not isinstance(entry, dict):
        wrong(path, "must be a JSON object")
        return PipelineStep("", 0)
    model, version = entry.get("model"), entry.get("version")
    if not isinstance(model, str) or _full_name(model) is None:
        wrong(f"{path}.model", "must be a registered model's full name, catalog.schema.model")
    if type(version) is not int or version < 1:
        wrong(f"{path}.version", "must be a version's number: a pipeline means the same for good")
    inputs = _names(entry.get("inputs", {}), f"{path}.inputs", wrong)
    outputs = _names(entry.get("outputs", {}), f"{path}.outputs", wrong)
    return PipelineStep(str(model), version if type(version) is int else 0, inputs, outputs)


def _names(entry: Any, path: str, wrong: Callable[[str, str], None]) -> tuple[tuple[str, str], ...]:
    if not isinstance(entry, dict) or not all(isinstance(name, str) for name in entry.values()):
        wrong(path, "must be an object: from the model's names to the pipeline's")
        return ()
    return tuple(entry.items())
