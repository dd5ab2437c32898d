"""Evaluations, scorers and prompts through MLflow's own client."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import unique_name

from .mlflow_server import ran

# MLflow and what it imports warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


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


async def test_people_are_asked_about_traces_in_queues(mlflow: Any) -> None:
    def scenario() -> dict[str, Any]:
        from mlflow.genai import label_schemas as labels
        from mlflow.genai import review_queues as queues
        from mlflow.tracing.assessment import log_issue
        from mlflow.tracking._tracking_service.utils import _get_store

        experiment = mlflow.set_experiment(unique_name("reviewed")).experiment_id
        question = labels.create_label_schema(
            "how good?",
            type="feedback",
            input=labels.InputCategorical(options=["bad", "good"]),
            instruction="be honest",
        )
        wider = labels.InputCategorical(options=["bad", "good", "great"])
        labels.update_label_schema(schema_id=question.schema_id, input=wider)
        again = labels.get_label_schema("how good?", experiment_id=experiment)
        with mlflow.start_span("asked") as span:
            trace_id = span.trace_id
        queue = queues.create_review_queue(
            "the hard ones",
            queue_type="custom",
            users=["Ada"],
            schema_ids=[question.schema_id],
        )
        queues.add_items_to_review_queue(queue.queue_id, item_ids=[trace_id])
        done = queues.set_review_queue_item_status(
            queue.queue_id, item_id=trace_id, status="complete", completed_by="eve"
        )
        own = queues.get_or_create_user_queue("ada")
        store = _get_store()
        issue = store.create_issue(experiment, "slow", "takes long", categories=["speed"])
        log_issue(trace_id=trace_id, issue_id=issue.issue_id, issue_name="slow")
        [found] = store.search_issues(experiment, include_trace_count=True)
        result = {
            "question": (again.schema_id == question.schema_id, again.input.options),
            "asked": sorted(one.name for one in labels.list_label_schemas()),
            "queue": (queue.users, queue.schema_ids == [question.schema_id], queue.created_by),
            "item": (str(done.status), done.completed_by),
            "left": list(queues.list_review_queue_items(queue.queue_id, status="pending")),
            "queues": sorted(one.name for one in queues.list_review_queues(user="ada")),
            "own": (own.name, str(own.queue_type)),
            "issue": (found.name, str(found.status), found.categories, found.trace_count),
        }
        queues.delete_review_queue(queue.queue_id)
        labels.delete_label_schema(schema_id=question.schema_id)
        with pytest.raises(mlflow.exceptions.MlflowException) as caught:
            labels.get_label_schema(schema_id=question.schema_id)
        return {**result, "gone": caught.value.error_code}

    assert await ran(scenario) == {
        "question": (True, ["bad", "good", "great"]),
        "asked": ["Feedback", "how good?"],
        "queue": (["ada"], True, "ada"),
        "item": ("complete", "ada"),
        "left": [],
        "queues": ["ada", "the hard ones"],
        "own": ("ada", "user"),
        "issue": ("slow", "pending", ["speed"], 1),
        "gone": "RESOURCE_DOES_NOT_EXIST",
    }
