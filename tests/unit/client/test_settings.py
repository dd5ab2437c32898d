from __future__ import annotations

import json
from pathlib import Path

import pytest

from tessera import Settings
from tessera_kit.config import ConfigError

DOORS = {
    "catalog": "127.0.0.1:1",
    "tracking": "127.0.0.1:2",
    "training": "127.0.0.1:3",
    "inference": "127.0.0.1:4",
    "monitoring": "127.0.0.1:5",
    "gateway": "127.0.0.1:6",
    "kafka": "127.0.0.1:7",
    "tracking_http": "http://127.0.0.1:8",
}


def write_stack(home: Path) -> None:
    (home / "admin.token").write_text("tsr_1_secret\n")
    state = {"doors": DOORS, "files": {"admin_token": str(home / "admin.token")}}
    (home / "stack.json").write_text(json.dumps(state))


def test_a_running_stack_tells_its_doors_and_token(tmp_path: Path) -> None:
    write_stack(tmp_path)
    settings = Settings.from_env({"TESSERA_HOME": str(tmp_path)})
    assert settings.catalog == "127.0.0.1:1"
    assert settings.kafka == "127.0.0.1:7"
    assert settings.token is not None
    assert settings.token.reveal() == "tsr_1_secret"


def test_the_environment_goes_before_the_stack(tmp_path: Path) -> None:
    write_stack(tmp_path)
    source = {
        "TESSERA_HOME": str(tmp_path),
        "TESSERA_CATALOG_TARGET": "catalog.example:443",
        "TESSERA_TOKEN": "tsr_2_other",
    }
    settings = Settings.from_env(source)
    assert settings.catalog == "catalog.example:443"
    assert settings.tracking == "127.0.0.1:2"
    assert settings.token is not None
    assert settings.token.reveal() == "tsr_2_other"


def test_no_stack_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="infra/run up"):
        Settings.from_env({"TESSERA_HOME": str(tmp_path)})


def test_a_door_that_is_not_known_names_its_variable(tmp_path: Path) -> None:
    source = {"TESSERA_HOME": str(tmp_path), "TESSERA_CATALOG_TARGET": "127.0.0.1:1"}
    settings = Settings.from_env(source)
    assert settings.door("catalog") == "127.0.0.1:1"
    with pytest.raises(ConfigError, match="TESSERA_TRACKING_TARGET"):
        settings.door("tracking")
    with pytest.raises(ConfigError, match="TESSERA_KAFKA_BOOTSTRAP"):
        settings.door("kafka")


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_stack(tmp_path)
    source = {"TESSERA_HOME": str(tmp_path), "TESSERA_TOKEN_FILE": str(tmp_path / "none")}
    with pytest.raises(ConfigError, match="none"):
        Settings.from_env(source)


def test_the_token_is_not_shown() -> None:
    settings = Settings(**DOORS, token=None)
    assert "secret" not in repr(settings)
