"""Paths of files and locations of tables: nothing leads out of its root."""

from __future__ import annotations

import pytest

from services.catalog.domain.paths import check_location, check_path, literal_prefix
from services.catalog.errors import InvalidLocation, InvalidPath

ALLOWED = ("volumes/", "external/")


@pytest.mark.parametrize("path", ["model.pt2", "a/b/c.json", "weights-é.bin", "100%.txt", "a..b/c"])
def test_paths_below_the_root_pass(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "../a",
        "a/..",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "..\\a",
        "a\0b",
        "a\nb",
        "C:/x",
        "%2e%2e/a",
        "a/%2E%2e/b",
        "%2fetc",
        "a%5cb",
        "a%00b",
        "%ff",
        "\ud800",
        "x" * 1025,
        f"{'x' * 256}/y",
    ],
)
def test_paths_that_could_leave_it_do_not(path: str) -> None:
    with pytest.raises(InvalidPath):
        check_path(path)


@pytest.mark.parametrize(
    ("location", "prefix"),
    [
        ("external/a/b.parquet", "external/a/b.parquet"),
        ("volumes/main/default/raw/*.parquet", "volumes/main/default/raw/"),
        ("external/year={2013..2014}/**", "external/year="),
        ("external/{a,b}/x?.parquet", "external/"),
    ],
)
def test_keys_and_globs_pass(location: str, prefix: str) -> None:
    assert check_location(location, ALLOWED) == location
    assert literal_prefix(location) == prefix


@pytest.mark.parametrize(
    "location",
    [
        "",
        "models/a/b.parquet",
        "ext*/a.parquet",
        "{external,models}/a.parquet",
        "/external/a.parquet",
        "external/../models/a.parquet",
        "external/{..,a}/models/x",
        "external/{1..2}/../x",
        "external//a.parquet",
        "external/./a.parquet",
        "external/a.parquet?versionId=1&x",
        "external/a b.parquet",
        "external/a%2e%2e/b",
        "http://elsewhere/external/a.parquet",
        "s3://bucket/external/a.parquet",
        "external/a'.parquet",
        "external/{a.parquet",
        "external/\\a",
        "external/a\0",
        "external/a\n",
    ],
)
def test_locations_that_could_reach_outside_do_not(location: str) -> None:
    with pytest.raises(InvalidLocation) as failure:
        check_location(location, ALLOWED)
    assert failure.value.violations[0].field == "table.storage_location"
