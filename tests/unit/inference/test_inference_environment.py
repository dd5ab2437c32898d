"""Variables of a model's process: secrets reach it and nothing else."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.inference.adapters.sql.rows import config_row, config_value, endpoint_row
from services.inference.domain.endpoint import Endpoint, UpdateState
from services.inference.domain.entity_rules import check_entities
from services.inference.domain.environment import SecretReference, secret_reference
from services.inference.errors import InvalidConfig
from services.inference.runtime.programs.environments import plain_environment, told_environment
from tests.unit.inference.control import ADA, Control, entity

VALUE = "s3cr3t-of-nobody-else"
REFERENCE = "{{secrets/prod/db.password}}"


async def updated(control: Control) -> Endpoint:
    """The endpoint after a change to an entity that names a secret.

    It is put where the handlers would put it for a flavor that brings code.
    """
    stored = await control.created()
    assert stored.config is not None
    (served,) = stored.config.entities
    served = replace(
        served,
        runtime_name="tessera-second",
        environment={"DB_PASSWORD": REFERENCE, "MODE": "fast"},
    )
    pending = replace(stored.config, version=2, entities=(served,))
    begun = stored.begin(pending, control.clock.now(), "e9")
    await control.endpoints.save(begun, stored.etag, [])
    control.deployer.deploy(begun)
    await control.deployer.idle()
    return await control.endpoints.get("delays")


async def test_a_secret_reaches_the_models_process_and_is_kept_nowhere(
    manifest: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    control = Control(manifest)
    control.secrets.put("prod", "db.password", VALUE, "ada")
    endpoint = await updated(control)
    assert endpoint.update_state is UpdateState.NOT_UPDATING, endpoint.update_message
    files = control.runtime.files("tessera-second")
    assert json.loads(files["1/environment.json"]) == {"DB_PASSWORD": VALUE, "MODE": "fast"}
    assert VALUE not in control.runtime.config("tessera-second")
    bundle = await control.bundles.get("tessera-second")
    assert bundle is not None
    assert "1/environment.json" not in bundle.files
    assert endpoint.config is not None
    row = config_row("id", endpoint.config)
    assert config_value(row).entities == endpoint.config.entities
    seen = [row, endpoint_row(endpoint), control.endpoints.told, caplog.text, endpoint]
    assert VALUE not in repr(seen)
    assert all(VALUE.encode() not in one.data.SerializeToString() for one in control.endpoints.told)
    assert REFERENCE in repr(control.endpoints.told)


async def test_a_secret_that_is_missing_fails_the_update_by_its_name(
    manifest: dict[str, Any],
) -> None:
    control = Control(manifest)
    control.secrets.put("prod", "db.password", VALUE, "bob")
    endpoint = await updated(control)
    assert endpoint.update_state is UpdateState.FAILED
    assert "no secret prod/db.password that 'ada' may read" in endpoint.update_message
    assert endpoint.config is not None
    assert endpoint.config.version == 1
    assert not control.runtime.has("tessera-second")


async def test_a_model_without_code_has_no_variables(manifest: dict[str, Any]) -> None:
    control = Control(manifest)
    with pytest.raises(InvalidConfig, match="runs no code that could read it"):
        await control.create(entities=[entity(environment={"MODE": "fast"})])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("1ST", "x", "letters, digits"),
        ("A-B", "x", "letters, digits"),
        ("LD_PRELOAD", "x", "set by the platform"),
        ("PYTHONPATH", "x", "set by the platform"),
        ("HOME", "x", "set by the platform"),
        ("A", "x\0y", "zero character"),
        ("A", "postgres://{{secrets/prod/key}}@db", "whole value"),
        ("A", "{{secrets/prod}}", "whole value"),
        ("A", "{{secrets/../key}}", "whole value"),
    ],
)
def test_wrong_variables_are_refused_by_name_and_without_their_value(
    name: str, value: str, message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message) as caught:
        check_entities([entity(environment={name: value})])
    assert value == "x" or value not in caught.value.message


def test_a_reference_is_a_whole_value() -> None:
    assert secret_reference(REFERENCE) == SecretReference("prod", "db.password")
    assert secret_reference("plain") is None
    check_entities([entity(environment={"PATHS": "a:b", "HOME_TOWN": REFERENCE})])


def test_the_file_is_its_process_own_and_does_not_go_before_the_platform(tmp_path: Path) -> None:
    assert told_environment(tmp_path) == {}
    path = tmp_path / "environment.json"
    path.write_text(json.dumps({"MODE": "fast", "HOME": "/elsewhere"}))
    told = told_environment(tmp_path) | plain_environment(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (told["MODE"], told["HOME"]) == ("fast", str(tmp_path))


async def test_a_rollback_names_the_same_secret(manifest: dict[str, Any]) -> None:
    control = Control(manifest)
    control.secrets.put("prod", "db.password", VALUE, "*")
    endpoint = await updated(control)
    assert endpoint.config is not None
    assert endpoint.config.entities[0].asked_again().environment["DB_PASSWORD"] == REFERENCE
    assert ADA.name == endpoint.created_by
