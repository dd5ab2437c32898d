"""Variables of a model's process: texts, and secrets by their names, `{{secrets/scope/key}}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tessera_kit.errors import FieldViolation

__all__ = ["SecretReference", "environment_violations", "secret_reference"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_RESERVED: Final = re.compile(r"LD_|PYTHON|(HOME|PATH|OMP_NUM_THREADS|CUDA_VISIBLE_DEVICES)\Z")
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
_REFERENCE: Final = re.compile(rf"\{{\{{secrets/({_PART})/({_PART})\}}\}}\Z")


@dataclass(frozen=True, slots=True)
class SecretReference:
    """The name of a secret."""

    scope: str
    key: str


def secret_reference(value: str) -> SecretReference | None:
    """The secret that a variable's value names; None for a plain text."""
    found = _REFERENCE.match(value)
    return None if found is None else SecretReference(found[1], found[2])


def environment_violations(path: str, environment: Mapping[str, str]) -> list[FieldViolation]:
    """What is wrong with variables; a value, which may be a secret by mistake, is never told."""
    wrong = []
    for name, value in environment.items():
        if _NAME.match(name) is None:
            text = "names must be letters, digits and '_'"
            wrong.append(FieldViolation(f"{path}.environment", text))
        elif _RESERVED.match(name) is not None:
            text = "is set by the platform"
            wrong.append(FieldViolation(f"{path}.environment[{name}]", text))
        elif "\0" in value:
            text = "must not hold a zero character"
            wrong.append(FieldViolation(f"{path}.environment[{name}]", text))
        elif "{{secrets/" in value and secret_reference(value) is None:
            text = "a secret is the whole value, as {{secrets/scope/key}}"
            wrong.append(FieldViolation(f"{path}.environment[{name}]", text))
    return wrong
