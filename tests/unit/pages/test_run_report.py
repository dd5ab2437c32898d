"""The page of runs: all that users named is text, scripts are ours, and what differs is marked."""

from __future__ import annotations

import hashlib
import json
import math
import re
from base64 import b64encode
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from tessera.pages import document
from tessera.pages.run_report import Link, Report, RunView, number_text, page
from tessera.pages.waterfall import Step, Trace
from tessera.tracking.v1 import tracking_pb2 as pb

EVIL = """</script><script>alert('x')</script><!--<img src=x onerror="alert(1)">{{ 31**5 }}\u2028"""


class Seen(HTMLParser):
    """Every tag with its attributes, and the text of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._within = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._within = False

    def handle_data(self, data: str) -> None:
        if self._within:
            self.scripts.append(data)


def run(place: int, **params: str) -> pb.Run:
    made = pb.Run(
        run_id=f"r{place}",
        name=f"run {place}",
        status=pb.RUN_STATUS_FINISHED,
        created_by="ada",
        params=[pb.Param(key=key, value=value) for key, value in params.items()],
        metrics=[pb.Metric(key="loss", value=place / 4, step=9)],
        metric_extremes=[pb.MetricExtremes(key="loss", min=0.0, max=8.0)],
        tags=[pb.Tag(key="mlflow.source.git.commit", value="abc123")],
    )
    made.started_at.FromSeconds(1_000)
    made.ended_at.FromSeconds(1_065)
    return made


def hostile() -> RunView:
    made = pb.Run(
        run_id=EVIL,
        name=EVIL,
        created_by=EVIL,
        status=pb.RUN_STATUS_FAILED,
        params=[pb.Param(key=EVIL, value=EVIL)],
        metrics=[pb.Metric(key=EVIL, value=math.nan, step=3)],
        tags=[
            pb.Tag(key=EVIL, value=EVIL),
            pb.Tag(key="mlflow.note.content", value=EVIL),
            pb.Tag(key="mlflow.source.name", value=EVIL),
        ],
    )
    files = [pb.ArtifactInfo(path=EVIL, size_bytes=12)]
    return RunView(
        run=made, experiment=EVIL, artifacts=files, links=[Link("from", EVIL, EVIL, EVIL)]
    )


def shown(*views: RunView, **more: Any) -> str:
    return page(Report(runs=views, made_at=datetime(2026, 1, 2, tzinfo=UTC), **more))


def view(one: pb.Run) -> RunView:
    return RunView(run=one, experiment="flights")


def buckets() -> list[pb.MetricBucket]:
    return [pb.MetricBucket(first_step=at, last_step=at, count=1, mean=at) for at in range(4)]


@pytest.mark.parametrize("others", [0, 1])
def test_hostile_names_stay_text(others: int) -> None:
    html = shown(
        hostile(),
        *[view(run(1, depth="2"))] * others,
        curves={(0, EVIL): buckets()},
        traces=[
            (
                0,
                Trace(
                    trace_id=EVIL,
                    name=EVIL,
                    state=EVIL,
                    tags={EVIL: EVIL},
                    steps=[Step(span_id="1", name=EVIL, started_at=0, ended_at=9)],
                ),
            )
        ],
        notes=[EVIL],
    )
    seen = Seen(html)
    assert [tag for tag, _ in seen.tags if tag in {"img", "link", "iframe", "object"}] == []
    assert [tag for tag, _ in seen.tags].count("script") == 2
    handlers = {name for _, found in seen.tags for name in found if name.startswith("on")}
    assert handlers == set()
    assert not any(set(found) & {"src", "href"} for _, found in seen.tags)
    data = json.loads(seen.scripts[0])
    assert data["runs"][0]["name"] == EVIL
    assert data["curves"][0]["key"] == EVIL
    assert str(31**5) not in html.split("<main>")[1].split("<footer>")[0]


def test_only_our_script_may_run_and_nothing_is_requested() -> None:
    html = shown(view(run(0)))
    seen = Seen(html)
    policy = next(
        found["content"] or ""
        for tag, found in seen.tags
        if tag == "meta" and found.get("http-equiv")
    )
    digest = b64encode(hashlib.sha256(seen.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", html) is None


def test_a_run_tells_its_facts_its_values_and_its_files() -> None:
    files = [pb.ArtifactInfo(path="model/weights.bin", size_bytes=231_000_000)]
    links = [Link("to", "model version", "main.flights.delay/3")]
    one = RunView(run=run(2, depth="8"), experiment="flights", artifacts=files, links=links)
    html = shown(one)
    for text in ("flights", "1 m 5 s", "ada", "abc123", "depth", "0.5", "231 MB", "delay/3"):
        assert text in html, text
    assert 'id="table"' not in html


def test_what_is_equal_in_all_runs_is_marked_and_the_rest_is_not() -> None:
    html = shown(view(run(0, depth="8", rate="0.1")), view(run(1, depth="8", rate="0.2")))
    heads = re.findall(r'<th scope="col" class="([^"]*)" title="([^"]*)"', html)
    equal = {name: "same" in classes.split() for classes, name in heads}
    assert equal["depth"]
    assert not equal["rate"]
    assert not equal["loss"]
    assert 'id="parallel"' in html
    same = shown(view(run(0, depth="8")), view(run(1, depth="8")))
    assert 'id="parallel"' not in same


def test_what_the_machine_did_stands_behind_what_the_model_did() -> None:
    runs = [run(place) for place in (1, 2)]
    for one in runs:
        one.metrics.insert(0, pb.Metric(key="system/cpu", value=float(one.run_id[1:])))
        one.metrics.add(key="val/loss", value=float(one.run_id[1:]))
    html = shown(*(view(one) for one in runs))
    heads = re.findall(r'<th scope="col" class="[^"]*" title="([^"]*)"', html)
    assert heads[-3:] == ["loss", "val/loss", "system/cpu"]


def test_a_report_without_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a run"):
        shown()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5"), (math.nan, "NaN"), (math.inf, "∞"), (-math.inf, "-∞"), (1e-9, "1e-09")],
)
def test_numbers_are_read_by_people(value: float, text: str) -> None:
    assert number_text(value) == text


def test_json_in_a_page_holds_no_tag_and_no_infinity() -> None:
    text = document.embedded({"a": EVIL})
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == {"a": EVIL}
    with pytest.raises(ValueError, match="Out of range"):
        document.embedded({"a": math.inf})


@pytest.mark.parametrize(
    ("value", "told", "whole"),
    [
        ("0.0005106746138932631", "0.000510675", True),
        ("1.0000000000000002e-05", "1e-05", True),
        ("0.36", "0.36", False),
        ("20261127121728", "20261127121728", False),
        ("3.17.2-nightly", "3.17.2-nightly", False),
    ],
)
def test_long_fractions_are_told_in_short_and_whole_when_pointed_at(
    value: str, told: str, whole: bool
) -> None:
    html = shown(view(run(0, rate=value)), view(run(1, rate="2")))
    title = f' title="{value}"' if whole else ""
    assert f'data-sort="{value}"{title}>{told}</td>' in html
