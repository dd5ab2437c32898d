"""What one run of the main job is made of: its names, its windows of time and its rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

PREFIX = "flight-delays"
CATALOG = "main"

HISTORY_START = datetime(2013, 1, 1, tzinfo=UTC)
REPLAY_START = datetime(2013, 4, 1, tzinfo=UTC)
REPLAY_END = datetime(2014, 1, 1, tzinfo=UTC)
WINDOW = timedelta(days=14)

DRIFT_METRIC = "population_stability_index"
DRIFT_THRESHOLD = 0.25
"""A population stability index of 0.2 and more is read as a significant shift."""
DRIFT_WINDOWS = 3
"""How many windows in a row must drift before somebody is told."""
WATCHED = ("temperature_f", "humidity_percent", "wind_speed_mph", "visibility_miles")
"""The inputs that the drift rule looks at."""
DEFAULT_REQUESTS = 20_000
CANARY_PERCENT = 25
CANARY_WINDOWS = 4
"""For how many windows a new version answers only its canary share."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The names that one run uses, all with the run's number, so that runs never meet."""

    number: int

    @property
    def schema(self) -> str:
        """The schema that holds the run's tables and model."""
        return f"{CATALOG}.flights_{self.number}"

    @property
    def departures(self) -> str:
        """The table of flown flights with their outcome; it grows as the year goes on."""
        return f"{self.schema}.departures"

    @property
    def baseline(self) -> str:
        """The table of the first quarter, which windows are compared with."""
        return f"{self.schema}.departures_first_quarter"

    @property
    def model(self) -> str:
        """The registered model."""
        return f"{self.schema}.departure_delay"

    @property
    def endpoint(self) -> str:
        """The serving endpoint."""
        return f"{PREFIX}-{self.number}"

    @property
    def monitor(self) -> str:
        """The monitor of the endpoint's inference table."""
        return f"{PREFIX}-{self.number}"

    @property
    def trigger(self) -> str:
        """The trigger that retrains when the monitor's alert fires."""
        return f"{PREFIX}-{self.number}-retrain"

    @property
    def experiment(self) -> str:
        """The experiment that keeps the runs."""
        return f"{PREFIX}-{self.number}"


def windows() -> list[tuple[datetime, datetime]]:
    """The windows of April to December, aligned as the monitor aligns them: on the Unix epoch."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    start = epoch + (REPLAY_START - epoch) // WINDOW * WINDOW
    cuts = []
    while start < REPLAY_END:
        cuts.append((max(start, REPLAY_START), min(start + WINDOW, REPLAY_END)))
        start += WINDOW
    return cuts
