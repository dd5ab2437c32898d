"""The settings of the monitoring service, read from the environment once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tessera_kit.config import (
    ClickHouseConfig,
    DatabaseConfig,
    Env,
    KafkaConfig,
    RpcConfig,
    Secret,
    Source,
    TargetsConfig,
    TelemetryConfig,
)
from tessera_kit.rpc.tls import ClientTls

__all__ = ["Config"]

_SERVICE = "monitoring"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the process is told."""

    rpc: RpcConfig
    """Its gRPC door."""
    database: DatabaseConfig
    """Where monitors, windows and alerts are kept."""
    kafka: KafkaConfig
    """The bus: rows and labels in, windows and alerts out."""
    clickhouse: ClickHouseConfig
    """Where tables are read and metrics computed; its database is this service's own."""
    targets: TargetsConfig
    """The catalog, which knows the tables and decides who may do what."""
    tls: ClientTls | None
    """How to check the catalog's certificate; plain text when None."""
    token: Secret
    """This service's own token."""
    telemetry: TelemetryConfig
    """Where traces, metrics and logs go."""
    data_dir: Path
    """Where the stream keeps its local files; they may be lost."""
    label_quiet_seconds: float
    """How long no label must have come before windows are computed again."""
    label_longest_seconds: float
    """How long labels that keep coming are waited for."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read the settings; the README lists the variables.

        Raises:
            ConfigError: One is missing or wrong; the text names it.
        """
        env = Env.of(source)
        return cls(
            rpc=RpcConfig.from_env(env, _SERVICE),
            database=DatabaseConfig.from_env(env, _SERVICE),
            kafka=KafkaConfig.from_env(env),
            clickhouse=ClickHouseConfig.from_env(env, database=f"tessera_{_SERVICE}"),
            targets=TargetsConfig.from_env(env, "catalog"),
            tls=ClientTls.from_env(env),
            token=env.secret_file("TESSERA_SERVICE_TOKEN_FILE"),
            telemetry=TelemetryConfig.from_env(env, _SERVICE),
            data_dir=env.path("TESSERA_DATA_DIR"),
            label_quiet_seconds=env.duration("TESSERA_MONITORING_LABEL_QUIET", 1.0),
            label_longest_seconds=env.duration("TESSERA_MONITORING_LABEL_LONGEST", 10.0),
        )
