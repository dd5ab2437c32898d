"""Pages of runs: made by the command line from the running service, looked at in a browser."""

from __future__ import annotations

import html
import json
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from services.tracking.mlflow.errors import mlflow_error
from services.tracking.mlflow.routes import mlflow_routes
from services.tracking.run_pages import page_routes
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.cli.main import main
from tessera.client.aio.client import AsyncClient
from tessera.client.settings import Settings
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera_kit.config import HttpConfig, Secret
from tessera_kit.errors import Unavailable
from tessera_kit.http.server import build_http_server
from tests.browser import look
from tests.helpers import unique_name

from .conftest import Service
from .mlflow_server import ran

HOSTILE = """</script><script>alert(1)</script><img src=x onerror=alert(2)>"'&\u2028\u202eevil"""

ASK = """
  await drawn();
  const all = (what) => [...page.querySelectorAll(what)];
  const press = (on, key) => on.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  const told = {ready: page.documentElement.dataset.ready, foreign: all("img, script[src]").length};
  told.overflow = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  const lines = (cell) => {
    const range = page.createRange();
    range.selectNodeContents(cell);
    return new Set([...range.getClientRects()].map((one) => Math.round(one.top))).size;
  };
  told.broken = all("td.n").filter((cell) => lines(cell) > 1).map((cell) => cell.textContent);
  told.charts = all(".chart h3").map((one) => one.textContent);
  const plot = page.querySelector(".plot");
  const canvas = plot.querySelector("canvas");
  const pen = canvas.getContext("2d");
  told.inked = pen.getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);
  press(plot, "ArrowRight");
  told.read = all(".readout b").map((one) => one.textContent);
  told.said = plot.parentElement.querySelector("[role=status]").textContent;
  page.getElementById("log").click();
  page.getElementById("axis").value = "time";
  page.getElementById("axis").dispatchEvent(new Event("change"));
  page.getElementById("smooth").value = "0.9";
  page.getElementById("smooth").dispatchEvent(new Event("input"));
  await drawn();
  press(plot, "ArrowRight");
  told.later = page.querySelector(".readout p").textContent;
  const order = () => all("#table tbody tr").map((one) => Number(one.dataset.run));
  const sort = all("#table thead button").find((one) => one.textContent === "rate");
  if (sort) {
    sort.click();
    told.up = order();
    sort.click();
    told.down = order();
    told.same = all("#table thead th.same button").map((one) => one.textContent);
    told.axes = all(".parallel .axis").length;
    press(page.querySelector(".parallel .axis"), "ArrowUp");
    await drawn();
    told.chosen = page.getElementById("chosen").textContent;
    told.out = all("#table tr.out").map((one) => Number(one.dataset.run));
    press(page.querySelector(".parallel .axis"), "Escape");
  }
  await drawn();
  told.left = all("#table tr.out").length;
  return told;
"""


FOLLOW = """
  const frame = document.getElementById("page");
  const loaded = () => new Promise((done) => { frame.onload = done; });
  const seen = [];
  for (const link of LINKS) {
    let next = loaded();
    frame.contentWindow.location.hash = link;
    await next;
    const {pathname, search} = frame.contentWindow.location;
    seen.push(pathname + search);
    next = loaded();
    frame.contentWindow.location.replace("/page");
    await next;
  }
  page = frame.contentDocument;
  return {seen, overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth};
"""


class Graph:
    """A catalog's graph in which a version was made from each run; Bob's catalog is away."""

    async def around(self, token: str, run_id: str) -> list[lineage.LineageEdge]:
        if token != "token-ada":
            raise Unavailable("the catalog is away")
        run = lineage.LineageNode(type=lineage.LINEAGE_NODE_TYPE_RUN, name=run_id)
        version = lineage.LineageNode(
            type=lineage.LINEAGE_NODE_TYPE_MODEL_VERSION, name="main.default.net/7"
        )
        return [lineage.LineageEdge(source=run, target=version)]


@dataclass(frozen=True)
class Got:
    """What the HTTP door answered."""

    status: int
    headers: Mapping[str, str]
    text: str


async def got(client: AsyncClient, path: str, method: str = "GET", **headers: str) -> Got:
    headers = {"authorization": "Bearer token-ada", **headers}
    return await asked(client, f"pages/{path}", method, **headers)


async def asked(client: AsyncClient, path: str, method: str = "GET", **headers: str) -> Got:
    url = f"{client.settings.tracking_http}/{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers) as answer,
    ):
        return Got(answer.status, answer.headers, await answer.text())


@pytest.fixture
async def client(service: Service, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    """Ada's client; the command line finds the same doors, and no catalog."""
    http = build_http_server(
        HttpConfig(listen="127.0.0.1:0"),
        [*mlflow_routes(service.cases), *page_routes(service.cases, Graph())],
        authenticator=service.authority,
        render=mlflow_error,
    )
    await http.start()
    for name, value in {
        "TESSERA_HOME": "/nowhere",
        "TESSERA_TRACKING_TARGET": service.address,
        "TESSERA_TRACKING_HTTP_URL": http.address,
        "TESSERA_TOKEN": "token-ada",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        async with AsyncClient(Settings.from_env()) as made:
            yield made
    finally:
        await http.stop()


async def logged(client: AsyncClient, experiment_id: str, place: int, name: str) -> str:
    """A run of 300 steps with parameters, a file and a data set."""
    run = await client.tracking.create_run(
        experiment_id, name=name, tags={"mlflow.source.git.commit": "abc123", "team": HOSTILE}
    )
    data = pb.DatasetInput(name=HOSTILE, digest="d1", context="training")
    params = {"rate": 10.0**-place, "kind": "ab"[place % 2], "same": HOSTILE}
    await client.tracking.log(run.run_id, params=params, inputs=[data])
    points = []
    for step in range(300):
        values = {
            "loss": math.exp(-step / 100) + place / 10,
            "odd": math.nan if step % 7 else float(step),
            "system/cpu": 50.0 + step % 9,
        }
        for key, value in values.items():
            point = pb.Metric(key=key, value=value, step=step)
            point.timestamp.FromMilliseconds(run.started_at.ToMilliseconds() + step * 1000)
            points.append(point)
    await client.tracking.log_metrics(run.run_id, points)
    await client.tracking.log(run.run_id, metrics={"test/auc": 0.9 - place / 100})
    await client.tracking.upload_artifact(run.run_id, "model/weights.bin", b"x" * 1500)
    await client.tracking.end_run(run.run_id)
    return run.run_id


def traced(address: str, experiment_id: str, run_id: str) -> None:
    headers = {
        "authorization": "Bearer token-ada",
        "x-mlflow-experiment-id": experiment_id,
        "x-mlflow-run-id": run_id,
    }
    provider = TracerProvider(shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{address}/v1/traces", headers=headers)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("answer"), tracer.start_as_current_span(HOSTILE):
        pass
    provider.shutdown()


def written(*words: str) -> str:
    """What `runs page` writes."""
    with pytest.raises(SystemExit) as ended:
        main(["runs", "page", *words])
    assert not ended.value.code
    return Path(words[words.index("--output") + 1]).read_text(encoding="utf-8")


async def test_runs_side_by_side_in_a_browser_as_narrow_as_a_phone(
    client: AsyncClient, tmp_path: Path
) -> None:
    name = unique_name("<b>pages")
    experiment_id = (await client.tracking.create_experiment(name)).experiment_id
    names = [f"first {HOSTILE}", "second", "third"]
    ids = [await logged(client, experiment_id, place, name) for place, name in enumerate(names)]
    file = str(tmp_path / "runs.html")
    page = await ran(lambda: written(*ids, "--output", file))
    assert "abc123" in page
    assert "1 file, 2 KB" in page
    assert "The catalog&#39;s lineage is not shown" in page
    chosen = ("--experiment", name, "--filter", "params.kind = 'a'", "--output", file)
    assert f"<title>2 runs of {name.replace('<b>', '&lt;b&gt;')}</title>" in await ran(
        lambda: written(*chosen)
    )
    looked = await look(page, ASK, tmp_path, width=360)
    assert looked.complaints == []
    told: Any = looked.told
    assert told["ready"] == "yes"
    assert told["foreign"] == told["overflow"] == told["left"] == 0
    assert sorted(told["charts"]) == ["loss", "odd", "system/cpu"]
    assert told["inked"]
    assert len(told["read"]) == 3
    assert "step" in told["said"]
    assert "after the start" in told["later"]
    assert (told["up"], told["down"]) == ([2, 1, 0], [0, 1, 2])
    assert {"user", "same", "status"} <= set(told["same"])
    assert told["axes"] == 3
    assert told["chosen"] == "2 of 3 runs are chosen below"
    assert told["out"] == [2]


async def test_one_run_with_its_trace(client: AsyncClient, tmp_path: Path) -> None:
    made = await client.tracking.create_experiment(unique_name("pages"))
    run_id = await logged(client, made.experiment_id, 1, HOSTILE)
    address = client.settings.tracking_http
    await ran(lambda: traced(address, made.experiment_id, run_id))
    page = await ran(lambda: written(run_id, "--output", str(tmp_path / "run.html")))
    assert page.count('<summary style="--depth:') == 2
    assert "1,500 bytes" in page
    looked = await look(page, ASK, tmp_path, width=1280)
    assert looked.complaints == []
    told: Any = looked.told
    assert told["ready"] == "yes"
    assert told["foreign"] == told["overflow"] == 0
    assert told["inked"]
    assert len(told["read"]) == 1


async def test_who_may_not_read_a_run_gets_no_page_of_it(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = await client.tracking.create_experiment(unique_name("pages"))
    run = await client.tracking.create_run(made.experiment_id)
    monkeypatch.setenv("TESSERA_TOKEN", Secret("token-bob").reveal())
    file = tmp_path / "run.html"

    def attempt() -> Any:
        with pytest.raises(SystemExit) as ended:
            main(["runs", "page", run.run_id, "--output", str(file)])
        return ended.value.code

    assert await ran(attempt) == 1
    assert not file.exists()


async def test_the_door_answers_pages_to_who_may_read_the_runs(
    client: AsyncClient, tmp_path: Path
) -> None:
    made = await client.tracking.create_experiment(unique_name("pages"))
    ids = [await logged(client, made.experiment_id, one, HOSTILE) for one in range(2)]
    address = client.settings.tracking_http
    await ran(lambda: traced(address, made.experiment_id, ids[0]))
    page = await got(client, f"runs/{ids[0]}")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert policy.endswith("frame-ancestors 'none'")
    assert policy.removesuffix("; frame-ancestors 'none'") in html.unescape(page.text)
    assert page.headers["cache-control"] == "private, no-cache"
    assert "main.default.net/7" in page.text
    assert page.text.count('<summary style="--depth:') == 2
    looked = await look(page.text, ASK, tmp_path, width=360)
    assert looked.complaints == []
    told: Any = looked.told
    assert (told["ready"], told["foreign"], told["overflow"]) == ("yes", 0, 0)
    assert told["broken"] == []
    # The same until something changes.
    again = await got(client, f"runs/{ids[0]}", **{"if-none-match": page.headers["etag"]})
    assert (again.status, again.text) == (304, "")
    head = await got(client, f"runs/{ids[0]}", "HEAD")
    assert (head.status, head.text) == (200, "")
    assert head.headers["etag"] == page.headers["etag"]
    await client.tracking.log(ids[0], tags={"new": "tag"})
    changed = await got(client, f"runs/{ids[0]}", **{"if-none-match": page.headers["etag"]})
    assert changed.status == 200
    both = await got(client, f"runs?run={ids[0]}&run={ids[1]}&run={ids[0]}")
    assert "<title>2 runs of " in both.text


async def test_an_experiment_has_a_page_of_its_runs(client: AsyncClient) -> None:
    made = await client.tracking.create_experiment(unique_name("pages"))
    of = f"runs?experiment={made.experiment_id}"
    none = await got(client, of)
    assert (none.status, "has no such runs yet" in none.text) == (404, True)
    names = ("apple", "berry", "cherry")
    for place, name in enumerate(names):
        run = await client.tracking.create_run(made.experiment_id, name=name)
        await client.tracking.log(run.run_id, metrics={"auc": place / 10})
    page = await got(client, of)
    assert (page.status, "<title>3 runs of " in page.text) == (200, True)
    best = await got(client, f"{of}&filter=metrics.auc > 0&order_by=metrics.auc DESC")
    assert best.text.index("cherry") < best.text.index("berry")
    assert "apple" not in best.text
    wrong = await got(client, f"{of}&filter=metrics.auc >> 0")
    assert (wrong.status, "at character 14" in wrong.text) == (400, True)
    assert (await got(client, "runs?experiment=none")).status == 404
    assert (await got(client, of, authorization="Bearer token-bob")).status == 403


async def test_links_that_mlflow_s_clients_print_lead_to_pages(
    client: AsyncClient, tmp_path: Path
) -> None:
    front = await asked(client, "")
    assert front.status == 200
    assert front.headers["content-security-policy"].endswith("frame-ancestors 'none'")
    links = [
        "#/experiments/0/runs/01a2-f",
        "#/experiments/0/evaluation-runs?selectedRunUuid=abc",
        "#/experiments/7",
        "#/experiments/7/traces?selectedEvaluationId=tr-1",
    ]
    follow = FOLLOW.replace("LINKS", json.dumps(links))
    looked = await look(front.text, follow, tmp_path, width=360)
    # The pages themselves are not there in this browser's world.
    assert [one for one in looked.complaints if "404" not in one] == []
    assert looked.told == {
        "seen": [
            "/pages/runs/01a2-f",
            "/pages/runs/abc",
            "/pages/runs?experiment=7",
            "/pages/runs?experiment=7",
        ],
        "overflow": 0,
    }


async def test_the_door_refuses_what_is_no_page(client: AsyncClient) -> None:
    made = await client.tracking.create_experiment(unique_name("pages"))
    run_id = (await client.tracking.create_run(made.experiment_id)).run_id
    bob = {"authorization": "Bearer token-bob"}
    for path, headers, status in (
        (f"runs/{run_id}", bob, 403),
        (f"runs?run={run_id}", bob, 403),
        (f"runs/{run_id}", {"authorization": "Bearer wrong"}, 401),
        (f"runs/{'0' * 32}", {}, 404),
        (f"runs/{'0' * 65}", {}, 400),
        ("runs", {}, 400),
        ("runs?run=", {}, 404),
        ("runs?" + "&".join(f"run={one}" for one in range(201)), {}, 400),
    ):
        answer = await got(client, path, **headers)
        assert answer.status == status, (path, answer.text)
        assert answer.headers["content-type"].startswith("text/plain")
        assert "<" not in answer.text
    answer = await got(client, f"runs/{run_id}", authorization="Bearer wrong")
    assert "Basic" in answer.headers["www-authenticate"]
    assert (await got(client, f"runs/{run_id}", "POST")).status in {405, 501}
