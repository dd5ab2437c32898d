"""How many GPUs training jobs of a stack may use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "TESSERA_TRAINING_GPUS"
_DEVICE = re.compile(r"nvidia\d+")


def count(environment: Mapping[str, str], devices: Path = Path("/dev")) -> str:
    """What `TESSERA_TRAINING_GPUS` of the training service is.

    Args:
        environment: The caller's. Its own `TESSERA_TRAINING_GPUS` is taken as it is; where it
            narrows the GPUs by `CUDA_VISIBLE_DEVICES`, jobs get none unless it says so, because
            they are given GPUs by their numbers on this machine.
        devices: Where the driver puts a file for each GPU.
    """
    if (given := environment.get(VARIABLE)) is not None:
        return given
    if "CUDA_VISIBLE_DEVICES" in environment:
        return "0"
    return str(sum(_DEVICE.fullmatch(one.name) is not None for one in devices.iterdir()))
