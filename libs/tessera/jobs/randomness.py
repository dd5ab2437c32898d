"""The state of every random generator that training code commonly draws from."""

from __future__ import annotations

import random
from typing import Any

__all__ = ["random_state", "set_random_state"]


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's default generators, fit for a checkpoint.

    Generators that the code made itself (`torch.Generator`, `numpy.random.Generator`) are its own
    to save.
    """
    import numpy
    import torch

    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Go on drawing where `random_state` was taken.

    Args:
        state: What it returned, also after a checkpoint was saved and loaded.
    """
    import numpy
    import torch

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
