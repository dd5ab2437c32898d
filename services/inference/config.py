"""Settings of the inference service, its shipper and its sink, read from the environment once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

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
    TritonConfig,
)
from tessera_kit.rpc.tls import ClientTls

__all__ = ["Config", "GatewayConfig", "ShipperConfig", "SinkConfig", "SpoolConfig"]

_LARGEST_LOGGED_BODY = 7 << 20


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """The log of payloads on local disk."""

    directory: Path
    """Where the segments lie."""
    segment_bytes: int
    """Size after which a new segment is begun."""
    max_bytes: int
    """Most bytes that wait for the bus; requests beyond them are refused."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read TESSERA_DATA_DIR and TESSERA_INFERENCE_SPOOL_*."""
        env = Env.of(source)
        config = cls(
            directory=env.path("TESSERA_DATA_DIR").absolute() / "spool",
            segment_bytes=env.integer("TESSERA_INFERENCE_SPOOL_SEGMENT_MIB", 32) << 20,
            max_bytes=env.integer("TESSERA_INFERENCE_SPOOL_MAX_MIB", 4096) << 20,
        )
        if not 0 < config.segment_bytes <= config.max_bytes:
            raise ConfigError(
                "TESSERA_INFERENCE_SPOOL_SEGMENT_MIB must be above 0 and at most "
                "TESSERA_INFERENCE_SPOOL_MAX_MIB"
            )
        return config


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Bounds of the gateway."""

    max_in_flight: int
    """Requests at once; more are refused."""
    shared_memory_bytes: int
    """Memory for large tensors that a runtime on this machine shares; 0 to send them all."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read TESSERA_INFERENCE_MAX_IN_FLIGHT and TESSERA_INFERENCE_SHARED_MEMORY_MIB."""
        env = Env.of(source)
        config = cls(
            max_in_flight=env.integer("TESSERA_INFERENCE_MAX_IN_FLIGHT", 512),
            shared_memory_bytes=env.integer("TESSERA_INFERENCE_SHARED_MEMORY_MIB", 128) << 20,
        )
        if config.max_in_flight < 1:
            raise ConfigError("TESSERA_INFERENCE_MAX_IN_FLIGHT must be at least 1")
        if config.shared_memory_bytes < 0:
            raise ConfigError("TESSERA_INFERENCE_SHARED_MEMORY_MIB must be 0 or more")
        return config


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of the service's process: control plane and gateway."""

    rpc: RpcConfig
    """The control plane's door."""
    gateway_rpc: RpcConfig
    """The gateway's door."""
    gateway_http: HttpConfig
    """The gateway's HTTP door."""
    gateway: GatewayConfig
    """The gateway's bounds."""
    spool: SpoolConfig
    """The log of payloads."""
    models_directory: Path
    """Where the files of served models are kept for the runtime's restarts."""
    secrets_directory: Path | None
    """Where secrets lie that models' variables name; None for none."""
    largest_model_file: int
    """Bytes of the largest model file that is served."""
    runtime_growth_bytes: int
    """Growth of the runtime's process upon which it is replaced; 0 for never."""
    reconcile_seconds: float
    """How often the runtime's models are looked at without a cause."""
    idle_seconds: float
    """After how long without a request an entity that scales to zero is unloaded, by default."""
    body_sweep_seconds: float
    """How often bodies are looked for whose rows are no longer kept."""
    database: DatabaseConfig
    """Where endpoints are kept."""
    kafka: KafkaConfig
    """The bus."""
    clickhouse: ClickHouseConfig
    """Where inference tables are counted."""
    s3: S3Config
    """Where bodies are that are too large for a row."""
    triton: TritonConfig
    """The model runtime."""
    targets: TargetsConfig
    """The other services."""
    token: Secret
    """This service's own token."""
    tls: ClientTls | None
    """How the other services' certificates are checked."""
    telemetry: TelemetryConfig
    """Where telemetry goes."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read every setting.

        Raises:
            ConfigError: A variable is missing or wrong; the text names it.
        """
        env = Env.of(source)
        return cls(
            rpc=RpcConfig.from_env(env, "inference"),
            gateway_rpc=RpcConfig.from_env(env, "gateway"),
            gateway_http=HttpConfig.from_env(env, "gateway"),
            gateway=GatewayConfig.from_env(env),
            spool=SpoolConfig.from_env(env),
            models_directory=env.path("TESSERA_DATA_DIR").absolute() / "models",
            secrets_directory=env.path("TESSERA_SECRETS_DIR", None),
            largest_model_file=env.integer("TESSERA_INFERENCE_MODEL_FILE_MIB", 1024) << 20,
            runtime_growth_bytes=env.integer("TESSERA_INFERENCE_RUNTIME_GROWTH_MIB", 1024) << 20,
            reconcile_seconds=env.duration("TESSERA_INFERENCE_RECONCILE_INTERVAL", 1.0),
            idle_seconds=env.duration("TESSERA_INFERENCE_SCALE_TO_ZERO_AFTER", 1800.0),
            body_sweep_seconds=env.duration("TESSERA_INFERENCE_BODY_SWEEP_INTERVAL", 3600.0),
            database=DatabaseConfig.from_env(env, "inference"),
            kafka=KafkaConfig.from_env(env),
            # Tables are named with their database, so any that is always there will do.
            clickhouse=ClickHouseConfig.from_env(env, database="default"),
            s3=S3Config.from_env(env),
            triton=TritonConfig.from_env(env),
            targets=TargetsConfig.from_env(env, "catalog"),
            token=env.secret_file("TESSERA_SERVICE_TOKEN_FILE"),
            tls=ClientTls.from_env(env),
            telemetry=TelemetryConfig.from_env(env, "inference"),
        )


@dataclass(frozen=True, slots=True)
class ShipperConfig:
    """All settings of the shipper's process."""

    spool: SpoolConfig
    """What the gateway beside it appends to, with that one's settings."""
    largest_logged_body: int
    """Bytes of a request or response above which its row points at an object with the body."""
    kafka: KafkaConfig
    """The bus."""
    s3: S3Config
    """Where bodies go that are too large for a row."""
    telemetry: TelemetryConfig
    """Where telemetry goes; metrics at TESSERA_INFERENCE_SHIPPER_METRICS_LISTEN."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read every setting.

        Raises:
            ConfigError: A variable is missing or wrong; the text names it.
        """
        env = Env.of(source)
        config = cls(
            spool=SpoolConfig.from_env(env),
            largest_logged_body=env.integer("TESSERA_INFERENCE_LOGGED_BODY_BYTES", 1 << 20),
            kafka=KafkaConfig.from_env(env),
            s3=S3Config.from_env(env),
            telemetry=TelemetryConfig.from_env(env, "inference-shipper"),
        )
        # A record holds two bodies, and the bus takes 16 MiB.
        if not 0 <= config.largest_logged_body <= _LARGEST_LOGGED_BODY:
            raise ConfigError(
                f"TESSERA_INFERENCE_LOGGED_BODY_BYTES must be 0 to {_LARGEST_LOGGED_BODY}"
            )
        return config


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """All settings of the sink's process."""

    database: DatabaseConfig
    """Where the service keeps which table is which endpoint's."""
    kafka: KafkaConfig
    """The bus."""
    clickhouse: ClickHouseConfig
    """Where the tables are."""
    max_rows: int
    """Most records of a batch."""
    max_wait_seconds: float
    """Least time from the begin of a batch to that of the next."""
    telemetry: TelemetryConfig
    """Where telemetry goes; metrics at TESSERA_INFERENCE_SINK_METRICS_LISTEN."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read every setting.

        Raises:
            ConfigError: A variable is missing or wrong; the text names it.
        """
        env = Env.of(source)
        config = cls(
            database=DatabaseConfig.from_env(env, "inference"),
            kafka=KafkaConfig.from_env(env),
            # Tables are named with their database, so any that is always there will do.
            clickhouse=ClickHouseConfig.from_env(env, database="default"),
            max_rows=env.integer("TESSERA_INFERENCE_SINK_MAX_ROWS", 5000),
            max_wait_seconds=env.duration("TESSERA_INFERENCE_SINK_MAX_WAIT", 0.2),
            telemetry=TelemetryConfig.from_env(env, "inference-sink"),
        )
        if config.max_rows < 1:
            raise ConfigError("TESSERA_INFERENCE_SINK_MAX_ROWS must be at least 1")
        return config
