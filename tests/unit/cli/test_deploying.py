"""The verbs that make endpoints: what is written becomes served entities."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tessera.cli import deploying
from tessera.cli import main as command
from tessera.inference.v1.endpoint_pb2 import ENDPOINT_STATE_READY, Endpoint, ServedEntity


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []

    class Inference:
        def deploy(self, name: str, entities: list[ServedEntity], **named: Any) -> Endpoint:
            made.append((name, entities, named))
            return Endpoint(name=name, state=ENDPOINT_STATE_READY)

        def delete_endpoint(self, name: str) -> None:
            made.append(name)

    class Client:
        def __enter__(self) -> Any:
            return SimpleNamespace(inference=Inference())

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(deploying, "Client", Client)
    return made


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        command.main(words)
    return int(end.value.code or 0)


def test_one_version_gets_all_requests(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("deploy", "flights", "main.a.m/3") == 0
    entity = ServedEntity(model_name="main.a.m", model_version=3, traffic_percent=100)
    assert asked == [("flights", [entity], {"table_schema": "main.a", "timeout": 600.0})]
    assert "flights" in capsys.readouterr().out


def test_several_versions_share_them(asked: list[Any]) -> None:
    words = ("main.a.m@champion=90", "main.b.m/4=10", "--schema", "main.rows", "--allow-code")
    assert run("deploy", "flights", *words) == 0
    ((_, entities, named),) = asked
    assert entities == [
        ServedEntity(
            model_name="main.a.m", model_alias="champion", traffic_percent=90, allow_code=True
        ),
        ServedEntity(model_name="main.b.m", model_version=4, traffic_percent=10, allow_code=True),
    ]
    assert named["table_schema"] == "main.rows"


def test_an_endpoint_is_taken_away(asked: list[Any]) -> None:
    assert run("undeploy", "flights") == 0
    assert asked == ["flights"]
