"""Traces, evaluations and scorers through MLflow's own client and OpenTelemetry's own exporter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from devstack import Stack
from services.catalog.domain.privileges import Privilege
from services.catalog.servicers.bindings import bindings
from services.tracking.adapters.catalog import CatalogRegistry
from services.tracking.adapters.clickhouse.spans import ClickHouseSpans
from services.tracking.adapters.memory import InMemoryPoints
from services.tracking.adapters.objects import ObjectArtifacts
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.app import use_cases
from services.tracking.mlflow.errors import mlflow_error
from services.tracking.mlflow.routes import mlflow_routes
from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import authorization_service_pb2_grpc as auth_rpc
from tessera_kit.config import ClickHouseConfig, HttpConfig, RpcConfig, Secret
from tessera_kit.http.server import build_http_server
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.server import build_server
from tessera_kit.store.clickhouse import ClickHouse, quote_identifier
from tessera_kit.store.objects import InMemoryObjectStore
from tessera_kit.store.sql import Database
from tests.catalog_world import ADMIN_TOKEN, SERVICE_TOKEN, World, let_pass
from tests.helpers import unique_name
from tests.tracking_database import fresh_database

# MLflow and what it imports warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")

Value = TypeVar("Value")


@pytest.fixture(scope="module")
async def spans_database(stack: Stack) -> AsyncIterator[ClickHouse]:
    config = ClickHouseConfig.from_env(stack.environment, database=unique_name("tracking"))
    async with ClickHouse(config) as client:
        yield client
        await client.command(f"DROP DATABASE IF EXISTS {quote_identifier(config.database)}")


@dataclass(frozen=True)
class Server:
    """The MLflow door, before a catalog: `ada` may create experiments and models, `bob` nothing."""

    address: str
    tokens: Mapping[str, str]


@asynccontextmanager
async def catalog() -> AsyncIterator[tuple[CatalogAuthority, CatalogRegistry, Mapping[str, str]]]:
    """A catalog behind its own door, with tokens of its users."""
    world = World()
    await world.begin()
    config = RpcConfig(listen="127.0.0.1:0", drain_seconds=0.1)
    server = build_server(config, bindings(world.cases), authenticator=world.cases.tokens)
    await server.start()
    try:
        async with (
            open_channel(server.address, token=Secret(SERVICE_TOKEN)) as own,
            open_channel(server.address) as bare,
        ):
            tokens = {}
            for name in ("ada", "bob"):
                await world.user(name)
                stub: Any = auth_rpc.AuthorizationServiceStub(bare)  # type: ignore[arg-type]
                made = await stub.CreateToken(
                    auth.CreateTokenRequest(principal=name),
                    metadata=(("authorization", f"Bearer {ADMIN_TOKEN}"),),
                )
                tokens[name] = made.secret
            await let_pass(world, "ada", [Privilege.CREATE_MODEL, Privilege.CREATE_EXPERIMENT])
            yield CatalogAuthority(own), CatalogRegistry(bare), tokens
    finally:
        await server.stop()


@pytest.fixture(scope="module")
async def server(
    spans_database: ClickHouse, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    folder: Path = tmp_path_factory.mktemp("tracking")
    async with (
        catalog() as (authority, registry, tokens),
        Database(await fresh_database(folder)) as database,
        ClickHouseSpans(spans_database) as spans,
    ):
        cases = use_cases(
            SqlStore(database, InMemoryPoints()),
            ObjectArtifacts(InMemoryObjectStore()),
            spans,
            authority,
            artifact_root="s3://test/tracking",
            registry=registry,
        )
        await cases.experiments.ensure_default()
        http = build_http_server(
            HttpConfig(listen="127.0.0.1:0"),
            mlflow_routes(cases),
            authenticator=authority,
            render=mlflow_error,
        )
        await http.start()
        try:
            yield Server(http.address, tokens)
        finally:
            await http.stop()
            await cases.log.close()


@pytest.fixture
def mlflow(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client, unmodified, told where the server is and which token to send."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", server.tokens["ada"])
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow

    mlflow.set_tracking_uri(server.address)
    yield mlflow


async def ran(scenario: Callable[[], Value]) -> Value:
    """Run what blocks in a thread, while the server answers on the loop."""
    return await asyncio.to_thread(scenario)


async def test_nested_spans_of_decorated_functions_are_read_back(mlflow: Any) -> None:
    def scenario() -> tuple[Any, Any]:
        mlflow.set_experiment(unique_name("chats"))

        @mlflow.trace(span_type="RETRIEVER", attributes={"k": 3})
        def retrieve(question: str) -> list[str]:
            return [f"about {question}"]

        @mlflow.trace(name="answer")
        def answer(question: str) -> dict[str, Any]:
            found = retrieve(question)
            with mlflow.start_span("llm", span_type="LLM") as span:
                span.set_attributes({"gen_ai.request.model": "tiny", "temperature": 0.5})
                span.set_inputs({"prompt": found})
                span.set_outputs("Because.")
            mlflow.update_current_trace(tags={"team": "blue"}, client_request_id="mine")
            return {"text": "Because.", "sources": found}

        answer("rain")
        trace_id = mlflow.get_last_active_trace_id()
        return trace_id, mlflow.get_trace(trace_id)

    trace_id, trace = await ran(scenario)
    assert trace.info.trace_id == trace_id
    assert trace.info.state.value == "OK"
    assert trace.info.tags["team"] == "blue"
    assert trace.info.tags["mlflow.traceName"] == "answer"
    assert trace.info.client_request_id == "mine"
    assert "rain" in trace.info.request_preview
    assert [(span.name, span.span_type) for span in trace.data.spans] == [
        ("answer", "UNKNOWN"),
        ("retrieve", "RETRIEVER"),
        ("llm", "LLM"),
    ]
    root, retriever, llm = trace.data.spans
    assert root.parent_id is None
    assert {retriever.parent_id, llm.parent_id} == {root.span_id}
    assert root.outputs == {"text": "Because.", "sources": ["about rain"]}
    assert retriever.attributes["k"] == 3
    assert llm.attributes["gen_ai.request.model"] == "tiny"
    assert llm.attributes["temperature"] == 0.5
    assert llm.inputs == {"prompt": ["about rain"]}


async def test_errors_are_kept_with_where_they_were_raised(mlflow: Any) -> None:
    def scenario() -> Any:
        mlflow.set_experiment(unique_name("failing"))

        @mlflow.trace
        def fail() -> None:
            raise ValueError("no such thing")

        with pytest.raises(ValueError, match="no such thing"):
            fail()
        return mlflow.get_trace(mlflow.get_last_active_trace_id())

    trace = await ran(scenario)
    assert trace.info.state.value == "ERROR"
    (span,) = trace.data.spans
    assert span.status.status_code.value == "ERROR"
    (event,) = span.events
    assert event.attributes["exception.message"] == "no such thing"
    assert "ValueError" in event.attributes["exception.stacktrace"]


async def test_traces_are_searched_tagged_linked_and_deleted(mlflow: Any) -> None:
    def scenario() -> dict[str, Any]:
        experiment = mlflow.set_experiment(unique_name("searched"))
        ids = []
        for number in range(3):
            with mlflow.start_span(f"call {number}") as span:
                span.set_attribute("model", "large" if number else "small")
                span.set_inputs({"number": number})
            ids.append(span.trace_id)
        client = mlflow.MlflowClient()

        def found(text: str | None = None, **asked: Any) -> list[str]:
            traces = client.search_traces(
                locations=[experiment.experiment_id], filter_string=text, **asked
            )
            return [ids.index(one.info.trace_id) for one in traces]

        client.set_trace_tag(ids[1], "kind", "odd")
        with mlflow.start_run() as run:
            client.link_traces_to_run([ids[0], ids[2]], run.info.run_id)
        result = {
            "all": found(),
            "tag": found("tag.kind = 'odd'"),
            "span": found("span.attributes.model = 'large'"),
            "text": found("trace.text LIKE '%small%'"),
            "run": found(f"run_id = '{run.info.run_id}'"),
            "ordered": found(order_by=["timestamp_ms ASC"], max_results=2),
            "named": found("name RLIKE '[12]$'"),
        }
        client.delete_trace_tag(ids[1], "kind")
        result["untagged"] = found("tag.kind = 'odd'")
        result["frame"] = len(mlflow.search_traces(locations=[experiment.experiment_id]))
        result["deleted"] = client.delete_traces(experiment.experiment_id, trace_ids=[ids[0]])
        result["left"] = found()
        return result

    assert await ran(scenario) == {
        "all": [2, 1, 0],
        "tag": [1],
        "span": [2, 1],
        "text": [0],
        "run": [2, 0],
        "ordered": [0, 1],
        "named": [2, 1],
        "untagged": [],
        "frame": 3,
        "deleted": 1,
        "left": [2, 1],
    }


async def test_feedback_and_expectations_live_with_the_trace(mlflow: Any) -> None:
    from mlflow.entities import AssessmentSource

    def scenario() -> Any:
        experiment = mlflow.set_experiment(unique_name("assessed"))
        with mlflow.start_span("call") as span:
            pass
        human = AssessmentSource("HUMAN", "ada")
        first = mlflow.log_feedback(
            trace_id=span.trace_id, name="good", value=0.25, rationale="meh", source=human
        )
        mlflow.log_expectation(
            trace_id=span.trace_id, name="answer", value={"text": "42"}, source=human
        )
        mlflow.update_assessment(
            trace_id=span.trace_id,
            assessment_id=first.assessment_id,
            assessment=mlflow.entities.Feedback(name="good", value=0.75, rationale="better"),
        )
        gone = mlflow.log_feedback(trace_id=span.trace_id, name="gone", value=True)
        mlflow.delete_assessment(span.trace_id, gone.assessment_id)
        found = mlflow.search_traces(
            locations=[experiment.experiment_id],
            filter_string="feedback.good > 0.5",
            return_type="list",
        )
        return [one.info.trace_id for one in found] == [span.trace_id], mlflow.get_trace(
            span.trace_id
        )

    was_found, trace = await ran(scenario)
    assert was_found
    said = {one.name: one for one in trace.info.assessments}
    assert said.keys() == {"good", "answer"}
    assert (said["good"].value, said["good"].rationale) == (0.75, "better")
    assert said["good"].source.source_id == "ada"
    assert said["answer"].value == {"text": "42"}


async def test_evaluation_data_sets_keep_one_example_per_input(mlflow: Any) -> None:
    def scenario() -> dict[str, Any]:
        from mlflow.genai import datasets

        experiment = mlflow.set_experiment(unique_name("evaluated")).experiment_id
        name = unique_name("examples")
        made = datasets.create_dataset(name=name, experiment_id=[experiment], tags={"a": "1"})
        with mlflow.start_span("asked") as span:
            span.set_inputs({"question": "from a trace"})
            span.set_outputs("an answer")
        made.merge_records(
            [
                {"inputs": {"question": f"{number} + 1"}, "expectations": {"sum": number + 1}}
                for number in range(3)
            ]
        )
        made.merge_records([{"inputs": {"question": "1 + 1"}, "expectations": {"words": "two"}}])
        made.merge_records(
            mlflow.search_traces(locations=[experiment], return_type="list", max_results=10)
        )
        (found,) = datasets.search_datasets(
            experiment_ids=experiment, filter_string=f"name = '{name}' AND tags.a = '1'"
        )
        frame = found.to_df()
        gone = [frame["dataset_record_id"][0]]
        result = {
            "same": found.dataset_id == made.dataset_id,
            "expected": {
                one["question"]: expected
                for one, expected in zip(frame["inputs"], frame["expectations"], strict=True)
            },
            "schema": found.schema,
            "deleted": made.delete_records(gone),
            "left": len(datasets.get_dataset(dataset_id=made.dataset_id).to_df()),
        }
        datasets.set_dataset_tags(dataset_id=made.dataset_id, tags={"b": "2"})
        datasets.delete_dataset_tag(dataset_id=made.dataset_id, key="a")
        result["tags"] = set(datasets.get_dataset(dataset_id=made.dataset_id).tags) & {"a", "b"}
        datasets.delete_dataset(dataset_id=made.dataset_id)
        with pytest.raises(mlflow.exceptions.MlflowException) as caught:
            datasets.get_dataset(dataset_id=made.dataset_id)
        return {**result, "gone": caught.value.error_code}

    result = await ran(scenario)
    schema = result.pop("schema")
    assert '"sum": "integer"' in schema
    assert '"words": "string"' in schema
    expected = result.pop("expected")
    assert expected["1 + 1"] == {"sum": 2, "words": "two"}
    assert expected["0 + 1"] == {"sum": 1}
    assert "from a trace" in expected
    assert result == {
        "same": True,
        "deleted": 1,
        "left": 3,
        "tags": {"b"},
        "gone": "RESOURCE_DOES_NOT_EXIST",
    }


async def test_evaluate_scores_traces_of_a_data_set(mlflow: Any) -> None:
    def scenario() -> dict[str, Any]:
        from mlflow.genai import datasets
        from mlflow.genai.scorers import RegexMatch, scorer

        experiment = mlflow.set_experiment(unique_name("evaluated"))
        dataset = datasets.create_dataset(
            name=unique_name("examples"), experiment_id=[experiment.experiment_id]
        )
        dataset.merge_records(
            [
                {"inputs": {"question": f"{number} + 1"}, "expectations": {"sum": number + 1}}
                for number in range(3)
            ]
        )
        # The same inputs again are the same example.
        dataset.merge_records([{"inputs": {"question": "1 + 1"}, "expectations": {"words": "two"}}])

        @scorer
        def is_right(outputs: str, expectations: dict[str, Any]) -> bool:
            return outputs == str(expectations["sum"])

        @mlflow.trace
        def predict(question: str) -> str:
            number = int(question.split()[0])
            return str(number + 1 if number else 7)

        again = datasets.get_dataset(dataset_id=dataset.dataset_id)
        evaluated = mlflow.genai.evaluate(
            data=again,
            predict_fn=predict,
            scorers=[is_right, RegexMatch(pattern=r"^\d+$")],
        )
        traces = mlflow.search_traces(
            locations=[experiment.experiment_id],
            filter_string="feedback.is_right = 'true'",
            return_type="list",
        )
        return {
            "metrics": evaluated.metrics,
            "right": len(traces),
            "records": again.to_df()["inputs"].tolist(),
            "words": [one.get("words") for one in again.to_df()["expectations"]],
            "rows": len(evaluated.result_df),
        }

    result = await ran(scenario)
    assert result["metrics"]["is_right/mean"] == pytest.approx(2 / 3)
    assert result["metrics"]["regex_match/mean"] == 1.0
    assert result["right"] == 2
    assert result["rows"] == 3
    assert sorted(one["question"] for one in result["records"]) == ["0 + 1", "1 + 1", "2 + 1"]
    assert sorted(one or "" for one in result["words"]) == ["", "", "two"]


async def test_scorers_are_registered_in_versions(mlflow: Any) -> None:
    def scenario() -> dict[str, Any]:
        from mlflow.genai.scorers import (
            RegexMatch,
            delete_scorer,
            get_scorer,
            list_scorers,
        )
        from mlflow.genai.scorers.registry import list_scorer_versions

        experiment = mlflow.set_experiment(unique_name("scored")).experiment_id
        RegexMatch(name="digits", pattern=r"\d").register(experiment_id=experiment)
        RegexMatch(name="digits", pattern=r"\d+").register(experiment_id=experiment)
        RegexMatch(name="letters", pattern="a").register(experiment_id=experiment)
        result = {
            "names": sorted(one.name for one in list_scorers(experiment_id=experiment)),
            "versions": [
                version
                for _, version in list_scorer_versions(name="digits", experiment_id=experiment)
            ],
            "latest": get_scorer(name="digits", experiment_id=experiment).pattern,
            "first": get_scorer(name="digits", version=1, experiment_id=experiment).pattern,
        }
        delete_scorer(name="digits", version=2, experiment_id=experiment)
        result["left"] = get_scorer(name="digits", experiment_id=experiment).pattern
        return result

    assert await ran(scenario) == {
        "names": ["digits", "letters"],
        "versions": [1, 2],
        "latest": r"\d+",
        "first": r"\d",
        "left": r"\d",
    }


async def test_prompts_have_versions_and_aliases_and_are_linked_to_traces(mlflow: Any) -> None:
    def scenario() -> dict[str, Any]:
        experiment = mlflow.set_experiment(unique_name("prompted")).experiment_id
        name = unique_name("greet")
        mlflow.genai.register_prompt(
            name=name, template="Hello {{who}}", commit_message="first", tags={"tone": "plain"}
        )
        second = mlflow.genai.register_prompt(
            name=name,
            template=[
                {"role": "system", "content": "Be kind"},
                {"role": "user", "content": "Greet {{who}}"},
            ],
        )
        mlflow.genai.set_prompt_alias(name, alias="production", version=1)
        plain = mlflow.genai.load_prompt(f"prompts:/{name}@production")
        mlflow.genai.set_prompt_alias(name, alias="production", version=2)
        chat = mlflow.genai.load_prompt(f"prompts:/{name}@production")

        @mlflow.trace
        def greet() -> str:
            return mlflow.genai.load_prompt(f"prompts:/{name}/1").format(who="Ada")

        greet()
        trace_id = mlflow.get_last_active_trace_id()
        found = mlflow.search_traces(
            locations=[experiment], filter_string=f"prompt = '{name}/1'", return_type="list"
        )
        mlflow.genai.set_prompt_version_tag(name, version=1, key="reviewed", value="yes")
        again = mlflow.genai.load_prompt(name, version=1)
        mlflow.genai.delete_prompt_alias(name, alias="production")
        with pytest.raises(mlflow.exceptions.MlflowException):
            mlflow.genai.load_prompt(f"prompts:/{name}@production", cache_ttl_seconds=0)
        return {
            "plain": (plain.version, plain.template, plain.format(who="you")),
            "chat": (chat.version, chat.format(who="you")[1]["content"]),
            "second": second.version,
            "tags": {key: again.tags.get(key) for key in ("tone", "reviewed")},
            "message": again.commit_message,
            "listed": name in [one.name for one in mlflow.genai.search_prompts()],
            "linked": [one.info.trace_id for one in found] == [trace_id],
        }

    assert await ran(scenario) == {
        "plain": (1, "Hello {{who}}", "Hello you"),
        "chat": (2, "Greet you"),
        "second": 2,
        "tags": {"tone": "plain", "reviewed": "yes"},
        "message": "first",
        "listed": True,
        "linked": True,
    }


async def test_the_opentelemetry_exporter_sends_here(mlflow: Any, server: Server) -> None:
    experiment = await ran(lambda: mlflow.set_experiment(unique_name("otel")))

    def scenario() -> str:
        exporter = OTLPSpanExporter(
            f"{server.address}/v1/traces",
            headers={
                "x-mlflow-experiment-id": experiment.experiment_id,
                "authorization": f"Bearer {server.tokens['ada']}",
            },
        )
        provider = TracerProvider(resource=Resource({"service.name": "agent"}))
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("tests")
        with tracer.start_as_current_span("chat tiny") as root:
            root.set_attribute("gen_ai.operation.name", "chat")
            root.set_attribute("gen_ai.usage.input_tokens", 12)
            root.set_attribute("gen_ai.usage.output_tokens", 3)
            root.set_attribute("gen_ai.conversation.id", "talk-1")
            with tracer.start_as_current_span("execute_tool"):
                pass
        provider.shutdown()
        return f"{root.get_span_context().trace_id:032x}"

    otel_id = await ran(scenario)
    trace = await ran(lambda: mlflow.get_trace(f"tr-{otel_id}"))
    assert [span.name for span in trace.data.spans] == ["chat tiny", "execute_tool"]
    assert trace.info.state.value == "OK"
    assert trace.info.tags["service.name"] == "agent"
    assert trace.info.token_usage == {
        "input_tokens": 12,
        "output_tokens": 3,
        "total_tokens": 15,
    }
    assert trace.info.trace_metadata["mlflow.trace.session"] == "talk-1"


async def test_grafana_finds_the_spans_in_the_exporter_s_table(
    mlflow: Any, spans_database: ClickHouse
) -> None:
    def scenario() -> Any:
        mlflow.set_experiment(unique_name("grafana"))
        with mlflow.start_span("shown") as span, mlflow.start_span("below"):
            pass
        return span.trace_id

    trace_id = await ran(scenario)
    # What Grafana's ClickHouse data source asks to show a trace.
    shown = await spans_database.query(
        "WITH {id:String} AS trace_id, "
        "(SELECT min(Start) FROM otel_traces_trace_id_ts WHERE TraceId = trace_id) AS first, "
        "(SELECT max(End) + 1 FROM otel_traces_trace_id_ts WHERE TraceId = trace_id) AS last "
        "SELECT TraceId AS traceID, SpanId AS spanID, ParentSpanId AS parentSpanID, "
        "ServiceName AS serviceName, SpanName AS operationName, Timestamp AS startTime, "
        "multiply(Duration, 0.000001) AS duration, "
        "arrayMap(key -> map('key', key, 'value', SpanAttributes[key]), "
        "mapKeys(SpanAttributes)) AS tags "
        "FROM otel_traces WHERE traceID = trace_id AND startTime >= first AND startTime <= last",
        {"id": trace_id.removeprefix("tr-")},
    )
    assert {row["operationName"] for row in shown.dicts()} == {"shown", "below"}


async def test_whoever_lacks_grants_sees_and_changes_nothing(
    mlflow: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> tuple[str, str]:
        experiment = mlflow.set_experiment(unique_name("private"))
        with mlflow.start_span("secret") as span:
            pass
        return experiment.experiment_id, span.trace_id

    experiment_id, trace_id = await ran(made)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", server.tokens["bob"])

    def scenario() -> list[str]:
        client = mlflow.MlflowClient()
        assert client.search_traces(locations=[experiment_id]) == []
        codes = []
        for attempt in (
            lambda: client.set_trace_tag(trace_id, "a", "b"),
            lambda: client.delete_traces(experiment_id, trace_ids=[trace_id]),
            lambda: mlflow.log_feedback(trace_id=trace_id, name="x", value=1),
        ):
            with pytest.raises(mlflow.exceptions.MlflowException) as caught:
                attempt()
            codes.append(caught.value.error_code)
        return codes

    assert await ran(scenario) == ["PERMISSION_DENIED"] * 3
