"""The settings of the tracking service, read from the environment once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from services.tracking.domain.webhooks import HookUrls
from tessera_kit.config import (
    ClickHouseConfig,
    ConfigError,
    DatabaseConfig,
    Env,
    HttpConfig,
    KafkaConfig,
    RpcConfig,
    S3Config,
    Secret,
    Source,
    TargetsConfig,
    TelemetryConfig,
)
from tessera_kit.names import is_name
from tessera_kit.rpc.tls import ClientTls

__all__ = ["Config"]

_SERVICE = "tracking"
_UPLOAD_HOURS = "TESSERA_TRACKING_UPLOAD_HOURS"
_RETENTION = "TESSERA_TRACKING_RETENTION"
_RETENTION_DAYS = 30
_DEFAULT_SCHEMA = "TESSERA_TRACKING_DEFAULT_SCHEMA"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the process is told."""

    rpc: RpcConfig
    """Its gRPC door."""
    http: HttpConfig
    """Its HTTP door, for MLflow's clients."""
    default_schema: str
    """Where registered models with plain names land, `catalog.schema`."""
    webhook_urls: HookUrls
    """Which URLs webhooks may have."""
    webhook_key: Secret
    """What their secrets are encrypted with."""
    upload_age: timedelta
    """How long an upload in parts may take before it is dropped."""
    retention: timedelta | None
    """How long what was deleted can be restored before it is removed for good; None for ever."""
    database: DatabaseConfig
    """Where experiments and runs are kept, and points until ClickHouse has them."""
    clickhouse: ClickHouseConfig
    """Where points are kept; its database is this service's own."""
    kafka: KafkaConfig
    """The bus, for events and for changes of grants."""
    s3: S3Config
    """Where artifacts are kept."""
    targets: TargetsConfig
    """The catalog, which decides who may do what."""
    tls: ClientTls | None
    """How to check the catalog's certificate; plain text when None."""
    token: Secret
    """This service's own token."""
    telemetry: TelemetryConfig
    """Where traces, metrics and logs go."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read the settings; the README lists the variables.

        Raises:
            ConfigError: One is missing or wrong; the text names it.
        """
        env = Env.of(source)
        return cls(
            rpc=RpcConfig.from_env(env, _SERVICE),
            http=HttpConfig.from_env(env, _SERVICE),
            default_schema=_schema(env),
            webhook_urls=_hook_urls(env),
            webhook_key=env.secret_file(
                "TESSERA_TRACKING_WEBHOOK_KEY_FILE", env.secret_file("TESSERA_SERVICE_TOKEN_FILE")
            ),
            upload_age=_upload_age(env),
            retention=_retention(env),
            database=DatabaseConfig.from_env(env, _SERVICE),
            clickhouse=ClickHouseConfig.from_env(env, database=f"tessera_{_SERVICE}"),
            kafka=KafkaConfig.from_env(env),
            s3=S3Config.from_env(env),
            targets=TargetsConfig.from_env(env, "catalog"),
            tls=ClientTls.from_env(env),
            token=env.secret_file("TESSERA_SERVICE_TOKEN_FILE"),
            telemetry=TelemetryConfig.from_env(env, _SERVICE),
        )


def _upload_age(env: Env) -> timedelta:
    hours = env.number(_UPLOAD_HOURS, 48.0)
    if not 13.0 <= hours <= 8760.0:
        raise ConfigError(f"{_UPLOAD_HOURS} must be 13 to 8760: URLs of parts live 12 hours")
    return timedelta(hours=hours)


def _retention(env: Env) -> timedelta | None:
    seconds = env.duration(_RETENTION, _RETENTION_DAYS * 86_400.0)
    if seconds > 36_500 * 86_400.0:
        raise ConfigError(f"{_RETENTION} must be at most 36500d; 0 keeps for ever")
    return timedelta(seconds=seconds) if seconds else None


def _hook_urls(env: Env) -> HookUrls:
    schemes = _listed(env, "TESSERA_TRACKING_WEBHOOK_SCHEMES", "https")
    if not schemes or not set(schemes) <= {"http", "https"}:
        raise ConfigError("TESSERA_TRACKING_WEBHOOK_SCHEMES must be https, or http,https")
    hosts = _listed(env, "TESSERA_TRACKING_WEBHOOK_PRIVATE_HOSTS", "")
    return HookUrls(schemes, hosts)


def _listed(env: Env, name: str, default: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in env.string(name, default).split(",") if one.strip())


def _schema(env: Env) -> str:
    schema = env.string(_DEFAULT_SCHEMA, "main.default")
    names = schema.split(".")
    if len(names) != 2 or not all(is_name(name) for name in names):
        raise ConfigError(f"{_DEFAULT_SCHEMA} must be two names joined by a dot, as main.default")
    return schema
