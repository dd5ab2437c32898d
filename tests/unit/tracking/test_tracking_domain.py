"""The rules of experiments, runs, batches, names and paths."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from services.tracking.domain.artifacts import check_artifact_path, check_sha256
from services.tracking.domain.batch import (
    Batch,
    Known,
    check_batch_limits,
    check_params_unique,
    news_of,
)
from services.tracking.domain.keys import check_experiment_name, check_key
from services.tracking.domain.lifecycle import LifecycleStage, fits_64_bits, micros_of
from services.tracking.domain.metrics import Point, latest_points
from services.tracking.domain.naming import random_run_name
from services.tracking.domain.run import (
    DatasetInput,
    RunChange,
    RunInfo,
    RunStatus,
    change_run,
    move_run,
)
from services.tracking.errors import (
    BatchTooLarge,
    DuplicateParams,
    InvalidArtifactPath,
    InvalidKey,
    InvalidUpdate,
    InvalidValue,
    ParamChanged,
    RunNotActive,
    StaleEtag,
)

RUN = RunInfo(
    run_id="r1",
    experiment_id="0",
    name="run",
    started_at=100,
    artifact_location="s3://x",
    created_by="ada",
    etag="one",
)


@pytest.mark.parametrize("key", ["a", "a/b", "a.b-c_d e:f", "1", "é", "a..."])
def test_good_keys(key: str) -> None:
    assert check_key(key, "metric", "key") == key


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "must be provided"),
        ("a?", "Names may only contain alphanumerics"),
        ("a\n", "Names may only contain"),
        ("/a", "must not resolve to other names when treated as such"),
        ("a/../b", "would resolve to 'b'"),
        ("a/", "would resolve to 'a'"),
        (".", "resolve"),
        ("../a", "resolve"),
    ],
)
def test_bad_keys_say_why(key: str, words: str) -> None:
    with pytest.raises(InvalidKey, match=r"for parameter 'tags\[0\].key' supplied") as caught:
        check_key(key, "tag", "tags[0].key")
    assert words in caught.value.message
    assert caught.value.violations[0].field == "tags[0].key"


@pytest.mark.parametrize(
    ("kind", "named"), [("metric", "Metric name"), ("parameter", "Param key"), ("tag", "key")]
)
def test_keys_have_a_length(kind: str, named: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        check_key("a" * 251, kind, "key")
    assert caught.value.message == f"'{named}' exceeds the maximum length of 250 characters"


@pytest.mark.parametrize("name", ["", "  ", "x" * 501, "a\x00b"])
def test_bad_experiment_names(name: str) -> None:
    with pytest.raises(InvalidValue):
        check_experiment_name(name)


@pytest.mark.parametrize("path", ["a", "a/b.txt", "é/ü x", "a..b", "..a/b", "a" * 850])
def test_good_paths(path: str) -> None:
    assert check_artifact_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\\b", "a\x00"),
        *("a\tb", "\u202ea", "\ud800", "é" * 426),
    ],
)
def test_bad_paths(path: str) -> None:
    with pytest.raises(InvalidArtifactPath):
        check_artifact_path(path)


def test_the_root_is_a_path_only_where_it_may_be() -> None:
    assert check_artifact_path("", allow_root=True) == ""


@pytest.mark.parametrize("digest", ["x", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_digest_is_lower_case_hex(digest: str) -> None:
    with pytest.raises(InvalidValue):
        check_sha256(digest)
    assert check_sha256("") == ""


def test_the_latest_point_has_the_greatest_step_then_time_then_value() -> None:
    nan = Point("m", 2, 5, math.nan)
    one, two = Point("m", 2, 5, 1.0), Point("m", 2, 5, 2.0)
    assert latest_points([one, two, nan])["m"] is two
    assert latest_points([nan, one])["m"] is one
    assert latest_points([nan])["m"] is nan
    assert latest_points([Point("m", 2, 6, -1.0), two])["m"].timestamp == 6
    assert latest_points([Point("m", 3, 0, -1.0), two])["m"].step == 3
    assert list(latest_points([two, Point("n", 0, 0, 0.0)])) == ["m", "n"]


# Runs


def test_a_run_that_ends_has_its_end() -> None:
    ended = change_run(RUN, RunChange(status=RunStatus.FAILED), now=500, etag="two")
    assert (ended.status, ended.ended_at, ended.etag) == (RunStatus.FAILED, 500, "two")
    again = change_run(ended, RunChange(status=RunStatus.FINISHED), now=900, etag="three")
    assert again.ended_at == 500
    told = change_run(RUN, RunChange(status=RunStatus.KILLED, ended_at=7), now=500, etag="two")
    assert told.ended_at == 7
    back = change_run(ended, RunChange(status=RunStatus.RUNNING), now=900, etag="three")
    assert back.ended_at is None
    # A clock that stepped back does not end a run before it began.
    assert change_run(RUN, RunChange(status=RunStatus.FAILED), now=5, etag="e").ended_at == 100


def test_changes_of_a_run_that_make_no_sense() -> None:
    with pytest.raises(StaleEtag):
        change_run(RUN, RunChange(name="n", etag="zero"), now=1, etag="two")
    with pytest.raises(InvalidUpdate):
        change_run(RUN, RunChange(), now=1, etag="two")
    with pytest.raises(InvalidUpdate):
        change_run(RUN, RunChange(ended_at=5), now=1, etag="two")
    with pytest.raises(RunNotActive):
        deleted = move_run(RUN, LifecycleStage.DELETED, now=5, etag="two")
        change_run(deleted, RunChange(name="n"), now=1, etag="three")


def test_a_run_moves_there_and_back_once() -> None:
    deleted = move_run(RUN, LifecycleStage.DELETED, now=5, etag="two")
    with pytest.raises(RunNotActive, match=r"must be in the 'active' state\. Current state is del"):
        move_run(deleted, LifecycleStage.DELETED, now=5, etag="three")
    with pytest.raises(
        RunNotActive, match=r"must be in the 'deleted' state\. Current state is act"
    ):
        move_run(RUN, LifecycleStage.ACTIVE, now=5, etag="two")
    assert move_run(deleted, LifecycleStage.ACTIVE, now=5, etag="one") == RUN


def test_made_up_names_are_said_aloud() -> None:
    names = {random_run_name() for _ in range(200)}
    assert len(names) > 190
    for name in names:
        quality, thing, number = name.split("-")
        assert quality.isalpha()
        assert thing.isalpha()
        assert 0 <= int(number) < 1000


# Batches


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"metrics": 1001}, "at most 1000 metrics. Got 1001 metrics. Please split up metrics"),
        ({"params": 101}, "at most 100 params"),
        ({"tags": 101}, "at most 100 tags"),
        ({"metrics": 950, "params": 51}, "at most 1000 metrics, params, and tags. Got 1001"),
        ({"size": 1_000_001}, "at most 1000000 bytes, got a request of size 1000001"),
    ],
)
def test_limits_of_a_batch(counts: dict[str, int], words: str) -> None:
    full = {"metrics": 0, "params": 0, "tags": 0, "size": 0}
    with pytest.raises(BatchTooLarge, match=words):
        check_batch_limits(**{**full, **counts})
    check_batch_limits(metrics=800, params=100, tags=100, size=1_000_000)


def test_a_parameter_comes_once_in_a_batch() -> None:
    with pytest.raises(DuplicateParams, match=r"have been submitted: \['a'\]"):
        check_params_unique([("a", "1"), ("b", "1"), ("a", "1")])


def test_news_are_what_the_run_did_not_have() -> None:
    used = DatasetInput("d")
    known = Known({"p": "1"}, {"t": "1"}, {used})
    batch = Batch(
        run_id="r1",
        principal="ada",
        params={"p": "1", "q": "2"},
        tags={"t": "1", "u": "2"},
        inputs=(used, DatasetInput("e"), DatasetInput("e")),
    )
    news = news_of(batch, LifecycleStage.ACTIVE, known)
    assert (news.params, news.tags) == ({"q": "2"}, {"u": "2"})
    assert news.inputs == (DatasetInput("e"),)
    assert news.changes_run
    assert not news_of(batch, LifecycleStage.ACTIVE, known).changes_run


def test_a_changed_parameter_refuses_the_whole_batch() -> None:
    known = Known({"p": "1"})
    batch = Batch(run_id="r1", principal="ada", params={"q": "2", "p": "3"}, tags={"t": "1"})
    with pytest.raises(ParamChanged) as caught:
        news_of(batch, LifecycleStage.ACTIVE, known)
    assert caught.value.message == (
        "Changing param values is not allowed. Params were already logged='[{'key': 'p', "
        "'old_value': '1', 'new_value': '3'}]' for run ID='r1'."
    )
    assert known == Known({"p": "1"})
    with pytest.raises(RunNotActive):
        news_of(batch, LifecycleStage.DELETED, known)


def test_times_are_kept_to_the_microsecond() -> None:
    assert micros_of(datetime(1970, 1, 1, 0, 0, 1, 5, UTC)) == 1_000_005
    assert micros_of(datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)) == 253_402_300_799_999_999
    assert fits_64_bits(2**63 - 1)
    assert not fits_64_bits(2**63)
