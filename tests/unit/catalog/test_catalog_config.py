"""Settings: read once, refused by name, and never shown where they are secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.catalog.config import Config
from tessera_kit.config import ConfigError
from tests.catalog_world import ADMIN_TOKEN, SERVICE_TOKEN


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "admin.token").write_text(f"{ADMIN_TOKEN}\n")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "inference.token").write_text(f"{SERVICE_TOKEN}\n")
    return {
        "TESSERA_CATALOG_DATABASE_URL": "sqlite+aiosqlite:////tmp/catalog.db",
        "TESSERA_KAFKA_BOOTSTRAP": "127.0.0.1:9092",
        "TESSERA_S3_ENDPOINT": "http://127.0.0.1:8333/",
        "TESSERA_S3_BUCKET": "lake",
        "TESSERA_S3_ACCESS_KEY": "key-id",
        "TESSERA_S3_SECRET_KEY": "s3-very-secret",
        "TESSERA_CLICKHOUSE_URL": "http://127.0.0.1:8123",
        "TESSERA_CLICKHOUSE_PASSWORD": "ch-very-secret",
        "TESSERA_ADMIN_TOKEN_FILE": str(tmp_path / "admin.token"),
        "TESSERA_SERVICE_TOKENS_DIR": str(tmp_path / "tokens"),
    }


def test_everything_is_read(environment: dict[str, str]) -> None:
    config = Config.from_env(environment)
    assert config.places.database_prefix == "tessera"
    assert config.places.external_prefixes == ("external/",)
    assert config.tokens.admin.reveal() == ADMIN_TOKEN
    assert {name: token.reveal() for name, token in config.tokens.services.items()} == {
        "inference": SERVICE_TOKEN
    }
    assert config.engine_settings().bucket_url == "http://127.0.0.1:8333/lake"
    assert config.engine_clickhouse().database == "default"


def test_clickhouse_may_reach_the_object_store_by_another_name(
    environment: dict[str, str],
) -> None:
    environment["TESSERA_CLICKHOUSE_S3_ENDPOINT"] = "http://objectstore:8333"
    settings = Config.from_env(environment).engine_settings()
    assert settings.bucket_url == "http://objectstore:8333/lake"


def test_secrets_are_not_shown(environment: dict[str, str]) -> None:
    shown = repr(Config.from_env(environment))
    for secret in ("s3-very-secret", "ch-very-secret", ADMIN_TOKEN, SERVICE_TOKEN):
        assert secret not in shown


@pytest.mark.parametrize(
    "name",
    [
        "TESSERA_CATALOG_DATABASE_URL",
        "TESSERA_KAFKA_BOOTSTRAP",
        "TESSERA_S3_ENDPOINT",
        "TESSERA_CLICKHOUSE_URL",
        "TESSERA_ADMIN_TOKEN_FILE",
        "TESSERA_SERVICE_TOKENS_DIR",
    ],
)
def test_what_is_missing_is_named(environment: dict[str, str], name: str) -> None:
    del environment[name]
    with pytest.raises(ConfigError, match=name):
        Config.from_env(environment)


def test_a_folder_without_tokens_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tokens" / "inference.token").unlink()
    with pytest.raises(ConfigError, match="TESSERA_SERVICE_TOKENS_DIR"):
        Config.from_env(environment)


@pytest.mark.parametrize("prefixes", ["external", "/external/", "a/,../b/", "x/../y/"])
def test_prefixes_that_could_reach_outside_are_refused(
    environment: dict[str, str], prefixes: str
) -> None:
    environment["TESSERA_CATALOG_EXTERNAL_PREFIXES"] = prefixes
    with pytest.raises(ConfigError, match="TESSERA_CATALOG_EXTERNAL_PREFIXES"):
        Config.from_env(environment)
