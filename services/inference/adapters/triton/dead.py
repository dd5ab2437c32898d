"""Models whose process died: Triton goes on to call them ready, and fails their requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["DeadModels"]

# "Stub process '<model>_<group>_<instance>' is not healthy."
_DIED: Final = re.compile(r"Stub process '(.+)_\d+_\d+'")


class DeadModels:
    """Names of models that a failure of theirs gave away as dead, until they are loaded again."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def note(self, details: str) -> None:
        """Read what Triton says of a failed request."""
        found = _DIED.search(details)
        if found is not None:
            self._names.add(found[1])

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def loaded(self, name: str) -> None:
        """Note that a model was loaded."""
        self._names.discard(name)

    def without(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the names that are not dead."""
        return frozenset(names) - self._names
