"""The catalog's settings, read from the environment once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from services.catalog.adapters.clickhouse import EngineSettings
from services.catalog.handlers.bootstrap import BootstrapTokens
from services.catalog.handlers.cases import Places
from tessera_kit.config import (
    ClickHouseConfig,
    ConfigError,
    DatabaseConfig,
    Env,
    KafkaConfig,
    RpcConfig,
    S3Config,
    Secret,
    TelemetryConfig,
)

__all__ = ["Config"]


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the catalog reads from its environment."""

    rpc: RpcConfig
    """Its gRPC door."""
    telemetry: TelemetryConfig
    """Traces, metrics and logs."""
    database: DatabaseConfig
    """Its own metadata."""
    kafka: KafkaConfig
    """The bus."""
    s3: S3Config
    """Files of models and volumes, and of external tables."""
    clickhouse: ClickHouseConfig
    """Rows of managed tables."""
    tokens: BootstrapTokens
    """The first principals' tokens."""
    places: Places
    """Where tables may lie."""
    clickhouse_s3_endpoint: str
    """The object store as ClickHouse reaches it."""
    read_seconds: int
    """How long one read of rows may take."""
    read_memory_bytes: int
    """How much memory one read or write of rows may take in ClickHouse."""

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Self:
        """Read every setting.

        Raises:
            ConfigError: One is missing or wrong.
        """
        env = Env.of(environment)
        s3 = S3Config.from_env(env)
        clickhouse = ClickHouseConfig.from_env(env)
        prefixes = env.string("TESSERA_CATALOG_EXTERNAL_PREFIXES", "external/")
        return cls(
            rpc=RpcConfig.from_env(env, "catalog"),
            telemetry=TelemetryConfig.from_env(env, "catalog"),
            database=DatabaseConfig.from_env(env, "catalog"),
            kafka=KafkaConfig.from_env(env),
            s3=s3,
            clickhouse=clickhouse,
            tokens=BootstrapTokens(
                admin=env.secret_file("TESSERA_ADMIN_TOKEN_FILE"),
                services=_service_tokens(env.path("TESSERA_SERVICE_TOKENS_DIR")),
            ),
            places=Places(clickhouse.database, _prefixes(prefixes)),
            clickhouse_s3_endpoint=env.string("TESSERA_CLICKHOUSE_S3_ENDPOINT", s3.endpoint),
            read_seconds=env.integer("TESSERA_CATALOG_READ_SECONDS", 300),
            read_memory_bytes=env.integer("TESSERA_CATALOG_READ_MEMORY_BYTES", 1 << 30),
        )

    def engine_clickhouse(self) -> ClickHouseConfig:
        """ClickHouse with a database that is always there: every table is named in full."""
        return replace(self.clickhouse, database="default")

    def engine_settings(self) -> EngineSettings:
        """Bounds of queries, and the object store as ClickHouse reaches it."""
        return EngineSettings(
            bucket_url=f"{self.clickhouse_s3_endpoint.rstrip('/')}/{self.s3.bucket}",
            access_key=self.s3.access_key,
            secret_key=self.s3.secret_key,
            seconds=self.read_seconds,
            memory_bytes=self.read_memory_bytes,
        )


def _prefixes(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for prefix in found:
        if not prefix.endswith("/") or prefix.startswith("/") or ".." in prefix:
            name = "TESSERA_CATALOG_EXTERNAL_PREFIXES"
            raise ConfigError(f"{name} must be prefixes such as external/, joined by commas")
    return found


def _service_tokens(folder: Path) -> dict[str, Secret]:
    try:
        files = sorted(folder.glob("*.token"))
        found = {file.stem: Secret(file.read_text("utf-8").strip()) for file in files}
    except (OSError, UnicodeDecodeError) as error:
        kind = type(error).__name__
        raise ConfigError(f"TESSERA_SERVICE_TOKENS_DIR: cannot read {folder}: {kind}") from None
    if not found:
        raise ConfigError(f"TESSERA_SERVICE_TOKENS_DIR: {folder} holds no <service>.token")
    return found
