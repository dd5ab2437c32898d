"""The runtime is told to forget memory, also when it has not done with its last request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from services.inference.adapters.triton import sharing as module
from services.inference.adapters.triton.sharing import TensorSharing


class Client:
    """Refuses with a text, so many times."""

    def __init__(self, text: str, refusals: int) -> None:
        self.text = text
        self.refusals = refusals
        self.asked = 0

    async def unregister_system_shared_memory(self, name: str, client_timeout: float) -> None:
        self.asked += 1
        if self.asked <= self.refusals:
            raise InferenceServerException(self.text)


@pytest.mark.parametrize(
    ("text", "refusals", "asked"),
    [
        ("", 0, 1),
        ("Cannot unregister shared memory region 'r', it is currently in use.", 2, 3),
        ("Cannot unregister shared memory region 'r', it is currently in use.", 99, 4),
        ("Unable to find shared memory region: 'r'", 99, 1),
    ],
)
async def test_memory_in_use_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, refusals: int, asked: int
) -> None:
    monkeypatch.setattr(module, "_RELEASE_SECONDS", (0.0, 0.0, 0.0))
    client: Any = Client(text, refusals)
    await TensorSharing("127.0.0.1:1", tmp_path, 1 << 20)._forget(client, "r")
    assert client.asked == asked
