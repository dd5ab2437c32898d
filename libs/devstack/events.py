"""The story of a stack: one JSON object per line in `logs/events.jsonl`, and in the log."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger("devstack")


def timestamp() -> str:
    """Now, in UTC, as RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class EventLog:
    """Appends events to a file, each line in one call: readers see whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def tell(
        self, event: str, process: str | None = None, **facts: str | int | float | None
    ) -> None:
        """Records `event` with its facts.

        Events: swept, started, healthy, unhealthy, killed, exited, restarting, upkeep failed,
        stopping, stopped.
        """
        known = {name: value for name, value in facts.items() if value is not None}
        line = {"time": timestamp(), "event": event, "process": process, **known}
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            # A full disk is no reason to let go of the processes.
            log.warning("%s cannot be written: %s", self._path, error.strerror)
        text = " ".join(f"{name}={value}" for name, value in known.items())
        log.info("%s %s %s", process or "stack", event, text)
