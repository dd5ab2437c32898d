"""Classes as users write them; each is registered as a model version by its file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


class Scale:
    """Stateless: numbers and texts in, numbers and texts out."""

    def __init__(self, factor: float, folder: str) -> None:
        self.factor = factor
        self.begun = Path(folder) / "begun"

    def load(self, context: Any) -> None:
        self.greeting = (context.folder / "greeting.txt").read_text()
        self.refusal = context.InvalidInput

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        what = inputs["name"][0, 0].decode()
        if what == "refuse":
            raise self.refusal("such a name has nobody")
        if what == "raise":
            raise ValueError(f"the token is {os.environ.get('API_TOKEN')}")
        if what == "die":
            os._exit(7)
        if what == "hang":
            time.sleep(3600)
        if what == "slow":
            self.begun.write_text("begun")
            time.sleep(1.0)
        if what == "wrong":
            return {"scaled": np.zeros((len(inputs["x"]), 3)), "told": inputs["name"]}
        told = [[self.greeting + name.decode()] for name in inputs["name"][:, 0]]
        return {"scaled": inputs["x"] * self.factor, "told": told}


class Words:
    """Streams: one response per word, each as soon as it is there."""

    def __init__(self, folder: str) -> None:
        self.log = Path(folder) / "closed"

    def predict(self, inputs: dict[str, Any]) -> Iterator[dict[str, str]]:
        try:
            for word in inputs["text"][0, 0].decode().split():
                if word == "raise":
                    raise ValueError("no such word")
                if word == "forever":
                    while True:
                        time.sleep(0.001)
                        yield {"word": word}
                yield {"word": word}
        finally:
            self.log.write_text("closed")


class Total:
    """Keeps state: the sum of a sequence so far."""

    def predict(self, inputs: dict[str, Any], sequence: Any) -> dict[str, Any]:
        sequence.state["sum"] = sequence.state.get("sum", 0) + int(inputs["x"][0, 0])
        return {"sum": [[sequence.state["sum"]]]}


class Features:
    """A first step: what a model takes, of texts."""

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        rows = [text.decode() for text in inputs["text"][:, 0]]
        x = [[len(row), row.count("a"), row.count("e"), 1.0] for row in rows]
        return {"x": np.array(x, np.float32), "carrier": [row[:2] for row in rows]}


class Verdict:
    """A last step: what callers want, of a probability."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"verdict": [self.words[int(late)] for late in inputs["probability"][:, 0] > 0.5]}
