"""How the model runtime runs a served model; what is not given follows from its signature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.inference.domain.signature import Flavor, Signature
from tessera_kit.errors import FieldViolation

__all__ = ["MAX_BATCH_ROWS", "RuntimeOptions", "SequenceOptions", "misfits"]

MAX_BATCH_ROWS: Final = 8192
"""Most rows of one request, and of the batch that the runtime puts together from several."""


@dataclass(frozen=True, slots=True)
class SequenceOptions:
    """How requests that belong together are kept together."""

    max_idle_us: int = 60_000_000
    """After how long without a request a sequence is forgotten, in microseconds."""
    max_sequences: int = 256
    """How many an instance has at once; further ones wait."""


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """What an endpoint's owner sets of the runtime's configuration of a model."""

    max_batch_size: int = 0
    """Most rows of a request and of what is put together; 0 for `MAX_BATCH_ROWS`."""
    preferred_batch_sizes: tuple[int, ...] = ()
    """Numbers of rows that are taken at once when as many are there."""
    max_queue_delay_us: int = 0
    """How long a request waits for others, in microseconds."""
    response_cache: bool = False
    """Whether equal requests are answered from memory."""
    warm_up_count: int = 0
    """With how many requests each instance is warmed up."""
    sequences: SequenceOptions | None = None
    """Set for models that keep state from request to request of a sequence."""

    @property
    def max_rows(self) -> int:
        """Most rows of a request, where rows can be put together."""
        return self.max_batch_size or MAX_BATCH_ROWS


def misfits(path: str, options: RuntimeOptions, signature: Signature) -> list[FieldViolation]:
    """What of the options does not fit a model of that signature.

    Args:
        path: Of the options in the request.
        options: What is asked for.
        signature: What the model takes and gives.
    """
    wrong = []
    rows = {
        "max_batch_size": options.max_batch_size,
        "preferred_batch_sizes": options.preferred_batch_sizes,
        "max_queue_delay": options.max_queue_delay_us,
    }
    if not signature.batched:
        wrong += [
            FieldViolation(
                f"{path}.{name}",
                "needs a model whose rows can be put together: one with shapes that begin with -1 "
                "and have a second size",
            )
            for name, value in rows.items()
            if value
        ]
    if any(size > options.max_rows for size in options.preferred_batch_sizes):
        wrong.append(
            FieldViolation(
                f"{path}.preferred_batch_sizes",
                f"must be at most the {options.max_rows} of a batch",
            )
        )
    stateless = signature.flavor in (Flavor.PYTHON, Flavor.PIPELINE) and not signature.stateful
    if stateless and options.sequences is not None:
        wrong.append(
            FieldViolation(
                f"{path}.sequences", "needs a class that keeps state: 'stateful' in its manifest"
            )
        )
    if options.response_cache and signature.streams:
        wrong.append(FieldViolation(f"{path}.response_cache", "is not for models that stream"))
    if options.response_cache and options.sequences is not None:
        wrong.append(FieldViolation(f"{path}.response_cache", "is not for models that keep state"))
    return wrong
