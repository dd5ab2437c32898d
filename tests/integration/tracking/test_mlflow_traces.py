"""Traces through MLflow's own client and OpenTelemetry's own exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tessera.cli.main import main
from tessera_kit.store.clickhouse import ClickHouse
from tests.helpers import unique_name

from .mlflow_server import Server, ran

# MLflow and what it imports warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


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


async def test_files_attached_to_a_trace_are_kept_with_it(mlflow: Any) -> None:
    from mlflow.tracing.attachments import Attachment

    picture = bytes(range(256))

    def scenario() -> tuple[list[bytes], str]:
        mlflow.set_experiment(unique_name("attached"))
        with mlflow.start_span("look") as span:
            span.set_inputs({"image": Attachment(content_type="image/png", content_bytes=picture)})
        trace = mlflow.get_trace(span.trace_id)
        place = trace.info.tags["mlflow.artifactLocation"]
        found = []
        pending = [""]
        while pending:
            for one in mlflow.artifacts.list_artifacts(artifact_uri=f"{place}/{pending.pop()}"):
                if one.is_dir:
                    pending.append(one.path)
                else:
                    local = mlflow.artifacts.download_artifacts(f"{place}/{one.path}")
                    found.append(Path(local).read_bytes())
        return found, str(trace.data.spans[0].inputs)

    found, inputs = await ran(scenario)
    assert found == [picture]
    assert "attachment" in inputs


async def test_the_opentelemetry_exporter_sends_here(mlflow: Any, mlflow_server: Server) -> None:
    experiment = await ran(lambda: mlflow.set_experiment(unique_name("otel")))

    def scenario() -> str:
        exporter = OTLPSpanExporter(
            f"{mlflow_server.address}/v1/traces",
            headers={
                "x-mlflow-experiment-id": experiment.experiment_id,
                "authorization": f"Bearer {mlflow_server.tokens['ada']}",
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


async def test_the_command_line_shows_a_trace_as_a_waterfall(
    mlflow: Any,
    mlflow_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def scenario() -> str:
        mlflow.set_experiment(unique_name("shown"))
        with mlflow.start_span("answer") as span, mlflow.start_span("retrieve"):
            pass
        return str(span.trace_id)

    trace_id = await ran(scenario)
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    monkeypatch.setenv("TESSERA_TRACKING_HTTP_URL", mlflow_server.address)
    monkeypatch.setenv("TESSERA_TOKEN", mlflow_server.tokens["ada"])

    def command(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["traces", "show", *words])
        return int(ended.value.code or 0)

    assert await ran(lambda: command(trace_id)) == 0
    shown = capsys.readouterr().out
    assert shown.index("answer") < shown.index("  retrieve")
    assert "━" in shown
    file = tmp_path / "trace.html"
    assert await ran(lambda: command(trace_id, "--html", str(file))) == 0
    assert "retrieve" in file.read_text()
    assert await ran(lambda: command("tr-none")) == 1
    assert "not found" in capsys.readouterr().err


async def test_whoever_lacks_grants_sees_and_changes_nothing(
    mlflow: Any, mlflow_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> tuple[str, str]:
        experiment = mlflow.set_experiment(unique_name("private"))
        with mlflow.start_span("secret") as span:
            pass
        return experiment.experiment_id, span.trace_id

    experiment_id, trace_id = await ran(made)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", mlflow_server.tokens["bob"])

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
