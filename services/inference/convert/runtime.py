"""Between the contract's options of the runtime and the domain's; pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions
from services.inference.errors import InvalidConfig
from tessera.inference.v1 import endpoint_pb2 as pb
from tessera_kit.errors import FieldViolation

__all__ = ["runtime_message", "runtime_options"]

_MICROSECOND: Final = timedelta(microseconds=1)
_LONGEST_DELAY: Final = timedelta(seconds=10)
_LONGEST_IDLE: Final = timedelta(days=1)


def runtime_options(told: pb.RuntimeOptions, path: str) -> RuntimeOptions:
    """The options that a caller asks for.

    Args:
        told: What it says.
        path: Where, for errors.

    Raises:
        InvalidConfig: A time is out of bounds.
    """
    sequences = None
    if told.HasField("sequences"):
        found, usual = told.sequences, SequenceOptions()
        idle = usual.max_idle_us
        if found.HasField("max_idle"):
            idle = _micros(found.max_idle, _LONGEST_IDLE, f"{path}.sequences.max_idle")
        sequences = SequenceOptions(idle, found.max_sequences or usual.max_sequences)
    return RuntimeOptions(
        max_batch_size=told.max_batch_size,
        preferred_batch_sizes=tuple(told.preferred_batch_sizes),
        max_queue_delay_us=_micros(
            told.max_queue_delay, _LONGEST_DELAY, f"{path}.max_queue_delay", least=timedelta()
        ),
        response_cache=told.response_cache,
        warm_up_count=told.warm_up_count,
        sequences=sequences,
    )


def runtime_message(options: RuntimeOptions) -> pb.RuntimeOptions:
    """The options as callers see them."""
    message = pb.RuntimeOptions(
        max_batch_size=options.max_batch_size,
        preferred_batch_sizes=options.preferred_batch_sizes,
        response_cache=options.response_cache,
        warm_up_count=options.warm_up_count,
    )
    if options.max_queue_delay_us:
        message.max_queue_delay.FromMicroseconds(options.max_queue_delay_us)
    if options.sequences is not None:
        message.sequences.max_sequences = options.sequences.max_sequences
        message.sequences.max_idle.FromMicroseconds(options.sequences.max_idle_us)
    return message


def _micros(
    told: Duration, longest: timedelta, path: str, *, least: timedelta = _MICROSECOND
) -> int:
    # Seconds first: a duration may say more than a timedelta holds.
    if abs(told.seconds) > longest.total_seconds() or not least <= told.ToTimedelta() <= longest:
        text = f"must be {least.total_seconds():g} to {longest.total_seconds():g} seconds"
        raise InvalidConfig(f"{path} {text}", violations=[FieldViolation(path, text)])
    return told.ToMicroseconds()
