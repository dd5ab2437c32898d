"""Typed configuration, read from the environment once, failing with the variable's name.

`Env` reads single variables; the frozen dataclasses below it are the settings that services share.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self, TypeVar

__all__ = [
    "REQUIRED",
    "ClickHouseConfig",
    "ConfigError",
    "DatabaseConfig",
    "Env",
    "HttpConfig",
    "KafkaConfig",
    "RpcConfig",
    "S3Config",
    "Secret",
    "TargetsConfig",
    "TelemetryConfig",
    "TritonConfig",
]

T = TypeVar("T")


class ConfigError(Exception):
    """A setting is missing or wrong; the text names its variable and never its value."""


class Secret:
    """A text that shows itself only when asked to: its repr, str and format are redacted."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret text. Never log it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not to be serialised")


class _Required(enum.Enum):
    REQUIRED = "required"


REQUIRED: Final = _Required.REQUIRED
"""The default of a variable that must be set."""
_RequiredType = Literal[_Required.REQUIRED]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?\Z")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class Env:
    """Reads variables of a mapping such as `os.environ`; an empty one counts as not set.

    Every reader raises ConfigError naming the variable when it is required and not set, or does not
    parse. Pass a `default` (None too) for one that may be left out.
    """

    __slots__ = ("_mapping",)

    def __init__(self, mapping: Mapping[str, str]) -> None:
        self._mapping = mapping

    @classmethod
    def of(cls, source: Env | Mapping[str, str]) -> Env:
        """`source` itself when it is an Env already."""
        return source if isinstance(source, Env) else cls(source)

    def __contains__(self, name: str) -> bool:
        return bool(self._mapping.get(name, "").strip())

    def string(self, name: str, default: T | _RequiredType = REQUIRED) -> str | T:
        """The text, without white space around it."""
        value = self._mapping.get(name, "").strip()
        if value:
            return value
        if default is REQUIRED:
            raise ConfigError(f"{name} must be set")
        return default

    def integer(self, name: str, default: T | _RequiredType = REQUIRED) -> int | T:
        """A whole number."""
        value = self.string(name, None)
        if value is None:
            return self._default(name, default)
        try:
            return int(value)
        except ValueError:
            raise ConfigError(f"{name} must be a whole number") from None

    def number(self, name: str, default: T | _RequiredType = REQUIRED) -> float | T:
        """A finite decimal number."""
        value = self.string(name, None)
        if value is None:
            return self._default(name, default)
        try:
            number = float(value)
        except ValueError:
            raise ConfigError(f"{name} must be a number") from None
        if number - number != 0:
            raise ConfigError(f"{name} must be a finite number")
        return number

    def boolean(self, name: str, default: T | _RequiredType = REQUIRED) -> bool | T:
        """1, true, yes, on; or 0, false, no, off; in any case."""
        value = self.string(name, None)
        if value is None:
            return self._default(name, default)
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
        raise ConfigError(f"{name} must be 1 or 0")

    def duration(self, name: str, default: T | _RequiredType = REQUIRED) -> float | T:
        """Seconds, from a number with an optional unit: `500ms`, `10`, `10s`, `5m`, `2h`, `7d`."""
        value = self.string(name, None)
        if value is None:
            return self._default(name, default)
        match = _DURATION.match(value)
        if match is None:
            raise ConfigError(f"{name} must be a duration such as 500ms, 10s or 5m")
        return float(match[1]) * _UNITS[match[2] or "s"]

    def path(self, name: str, default: T | _RequiredType = REQUIRED) -> Path | T:
        """A path, `~` expanded; it need not exist."""
        value = self.string(name, None)
        return self._default(name, default) if value is None else Path(value).expanduser()

    def secret(self, name: str, default: T | _RequiredType = REQUIRED) -> Secret | T:
        """A secret given as the variable's value."""
        value = self.string(name, None)
        return self._default(name, default) if value is None else Secret(value)

    def secret_file(self, name: str, default: T | _RequiredType = REQUIRED) -> Secret | T:
        """A secret read from the file that the variable names, without white space around it."""
        path = self.path(name, None)
        if path is None:
            return self._default(name, default)
        try:
            value = path.read_text("utf-8").strip()
        except OSError as error:
            raise ConfigError(f"{name}: cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{name}: {path} is not UTF-8 text") from None
        if not value:
            raise ConfigError(f"{name}: {path} is empty")
        return Secret(value)

    @staticmethod
    def _default(name: str, default: T | _RequiredType) -> T:
        if default is REQUIRED:
            raise ConfigError(f"{name} must be set")
        return default


Source = Env | Mapping[str, str]
"""Where a configuration is read from: an `Env`, or a mapping such as `os.environ`."""


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """The message bus."""

    bootstrap: str
    """Brokers to ask first, `host:port` joined by commas."""
    session_seconds: float = 6.0
    """How long a group waits for a silent member; Kafka's own brokers allow no less than 6."""
    fetch_wait_seconds: float = 0.5
    """How long a broker may wait for records before it answers that there are none."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read TESSERA_KAFKA_{BOOTSTRAP,SESSION_SECONDS,FETCH_WAIT_SECONDS}."""
        env = Env.of(source)
        session_seconds = env.number("TESSERA_KAFKA_SESSION_SECONDS", 6.0)
        if session_seconds < 1:
            raise ConfigError("TESSERA_KAFKA_SESSION_SECONDS must be at least 1")
        fetch_wait_seconds = env.number("TESSERA_KAFKA_FETCH_WAIT_SECONDS", 0.5)
        if not 0.01 <= fetch_wait_seconds <= 10:
            raise ConfigError("TESSERA_KAFKA_FETCH_WAIT_SECONDS must be from 0.01 to 10")
        return cls(env.string("TESSERA_KAFKA_BOOTSTRAP"), session_seconds, fetch_wait_seconds)


@dataclass(frozen=True, slots=True)
class S3Config:
    """The object store."""

    endpoint: str
    """URL of the S3 door."""
    region: str
    """Region that requests are signed for."""
    bucket: str
    """The one bucket that Tessera writes to."""
    access_key: str
    """Id of the key pair."""
    secret_key: Secret
    """Secret of the key pair."""
    public_endpoint: str = ""
    """URL by which clients outside reach the S3 door, for signed URLs; empty for `endpoint`."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read TESSERA_S3_{ENDPOINT,REGION,BUCKET,ACCESS_KEY,SECRET_KEY,PUBLIC_ENDPOINT}."""
        env = Env.of(source)
        return cls(
            endpoint=env.string("TESSERA_S3_ENDPOINT"),
            region=env.string("TESSERA_S3_REGION", "us-east-1"),
            bucket=env.string("TESSERA_S3_BUCKET", "tessera"),
            access_key=env.string("TESSERA_S3_ACCESS_KEY"),
            secret_key=env.secret("TESSERA_S3_SECRET_KEY"),
            public_endpoint=env.string("TESSERA_S3_PUBLIC_ENDPOINT", ""),
        )


@dataclass(frozen=True, slots=True)
class ClickHouseConfig:
    """The analytic database, by its HTTP interface."""

    url: str
    """`http://host:port` or `https://host:port`."""
    user: str = "default"
    """User name."""
    password: Secret = field(default_factory=lambda: Secret(""))
    """Password; may be empty on loopback."""
    database: str = "tessera"
    """Database that unqualified table names mean."""

    @classmethod
    def from_env(cls, source: Source, *, database: str | None = None) -> Self:
        """Read TESSERA_CLICKHOUSE_{URL,USER,PASSWORD,DATABASE}; `database` overrides the last."""
        env = Env.of(source)
        return cls(
            url=env.string("TESSERA_CLICKHOUSE_URL"),
            user=env.string("TESSERA_CLICKHOUSE_USER", "default"),
            password=env.secret("TESSERA_CLICKHOUSE_PASSWORD", Secret("")),
            database=(
                env.string("TESSERA_CLICKHOUSE_DATABASE", "tessera")
                if database is None
                else database
            ),
        )


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """A service's own metadata database."""

    url: str = field(repr=False)
    """SQLAlchemy async URL; may hold a password, so it is left out of the repr."""

    @classmethod
    def from_env(cls, source: Source, service: str) -> Self:
        """Read TESSERA_<SERVICE>_DATABASE_URL."""
        return cls(url=Env.of(source).string(f"TESSERA_{service.upper()}_DATABASE_URL"))


@dataclass(frozen=True, slots=True)
class RpcConfig:
    """One gRPC door."""

    listen: str
    """`host:port` to bind; port 0 picks a free one."""
    tls_cert_file: Path | None = None
    """PEM certificate chain; TLS is on when it and the key are given."""
    tls_key_file: Path | None = None
    """PEM private key of the certificate."""
    tls_client_ca_file: Path | None = None
    """PEM authorities; when given, clients must present a certificate signed by one (mTLS)."""
    max_message_bytes: int = 64 * 1024 * 1024
    """Greatest size of one message, both ways."""
    drain_seconds: float = 10.0
    """How long running calls may go on after the stop signal."""
    max_concurrent_rpcs: int = 1024
    """Calls running at once; more are answered RESOURCE_EXHAUSTED."""
    unary_deadline_seconds: float = 60.0
    """Longest run of a call without streams whose client set no deadline."""
    stream_deadline_seconds: float = 86_400.0
    """Longest run of any other call."""

    @classmethod
    def from_env(cls, source: Source, service: str) -> Self:
        """Read TESSERA_<SERVICE>_LISTEN, TESSERA_TLS_*_FILE and TESSERA_RPC_*."""
        env = Env.of(source)
        config = cls(
            listen=env.string(f"TESSERA_{service.upper()}_LISTEN", "127.0.0.1:0"),
            tls_cert_file=env.path("TESSERA_TLS_CERT_FILE", None),
            tls_key_file=env.path("TESSERA_TLS_KEY_FILE", None),
            tls_client_ca_file=env.path("TESSERA_TLS_CLIENT_CA_FILE", None),
            max_message_bytes=env.integer("TESSERA_RPC_MAX_MESSAGE_BYTES", 64 * 1024 * 1024),
            drain_seconds=env.duration("TESSERA_RPC_DRAIN_SECONDS", 10.0),
            max_concurrent_rpcs=env.integer("TESSERA_RPC_MAX_CONCURRENT", 1024),
            unary_deadline_seconds=env.duration("TESSERA_RPC_UNARY_DEADLINE", 60.0),
            stream_deadline_seconds=env.duration("TESSERA_RPC_STREAM_DEADLINE", 86_400.0),
        )
        if (config.tls_cert_file is None) != (config.tls_key_file is None):
            raise ConfigError("TESSERA_TLS_CERT_FILE and TESSERA_TLS_KEY_FILE must be set together")
        if config.tls_client_ca_file is not None and config.tls_cert_file is None:
            raise ConfigError("TESSERA_TLS_CLIENT_CA_FILE needs TESSERA_TLS_CERT_FILE")
        return config


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """One HTTP door."""

    listen: str
    """`host:port` to bind; port 0 picks a free one."""
    tls_cert_file: Path | None = None
    """PEM certificate chain; TLS is on when it and the key are given."""
    tls_key_file: Path | None = None
    """PEM private key of the certificate."""
    tls_client_ca_file: Path | None = None
    """PEM authorities; when given, clients must present a certificate signed by one (mTLS)."""
    max_body_bytes: int = 64 * 1024 * 1024
    """Most bytes of a request's body; more are answered 413. Routes of files have none."""
    drain_seconds: float = 10.0
    """How long running requests may go on after the stop signal."""
    keep_alive_seconds: float = 75.0
    """How long a connection may be idle."""
    max_concurrent: int = 1024
    """Requests running at once; more are answered 429."""
    deadline_seconds: float = 60.0
    """Longest run of a request."""
    stream_deadline_seconds: float = 86_400.0
    """Longest run of a request whose body or answer is a stream."""

    @classmethod
    def from_env(cls, source: Source, service: str) -> Self:
        """Read TESSERA_<SERVICE>_HTTP_LISTEN, TESSERA_TLS_*_FILE and TESSERA_HTTP_*."""
        env = Env.of(source)
        rpc = RpcConfig.from_env(env, service)
        return cls(
            listen=env.string(f"TESSERA_{service.upper()}_HTTP_LISTEN", "127.0.0.1:0"),
            tls_cert_file=rpc.tls_cert_file,
            tls_key_file=rpc.tls_key_file,
            tls_client_ca_file=rpc.tls_client_ca_file,
            max_body_bytes=env.integer("TESSERA_HTTP_MAX_BODY_BYTES", 64 * 1024 * 1024),
            drain_seconds=env.duration("TESSERA_HTTP_DRAIN_SECONDS", 10.0),
            keep_alive_seconds=env.duration("TESSERA_HTTP_KEEP_ALIVE", 75.0),
            max_concurrent=env.integer("TESSERA_HTTP_MAX_CONCURRENT", 1024),
            deadline_seconds=env.duration("TESSERA_HTTP_DEADLINE", 60.0),
            stream_deadline_seconds=env.duration("TESSERA_HTTP_STREAM_DEADLINE", 86_400.0),
        )


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """Where traces, metrics and logs of this process go."""

    metrics_listen: str | None = None
    """`host:port` of the Prometheus door; none when not set."""
    otlp_endpoint: str | None = None
    """OTLP/HTTP base URL; spans and logs go there when it is set."""
    clickhouse: ClickHouseConfig | None = None
    """ClickHouse that spans and logs go to when there is no OTLP endpoint."""
    log_level: str = "INFO"
    """Least severity that is logged."""
    sample_ratio: float = 0.1
    """Share of the traces begun here that are recorded, 0 to 1; a caller's own decision is kept."""
    most_traces_per_second: float = 100.0
    """How many of them at most, by the process; 0 for as many as the share is."""

    @classmethod
    def from_env(cls, source: Source, service: str) -> Self:
        """Read this process's telemetry settings.

        TESSERA_<SERVICE>_METRICS_LISTEN, TESSERA_OTLP_ENDPOINT, TESSERA_TELEMETRY_CLICKHOUSE,
        TESSERA_LOG_LEVEL, TESSERA_TRACE_RATIO and TESSERA_TRACE_MOST_PER_SECOND.
        """
        env = Env.of(source)
        level = env.string("TESSERA_LOG_LEVEL", "INFO").upper()
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ConfigError("TESSERA_LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR")
        ratio = env.number("TESSERA_TRACE_RATIO", 0.1)
        if not 0.0 <= ratio <= 1.0:
            raise ConfigError("TESSERA_TRACE_RATIO must be between 0 and 1")
        most = env.number("TESSERA_TRACE_MOST_PER_SECOND", 100.0)
        if most < 0:
            raise ConfigError("TESSERA_TRACE_MOST_PER_SECOND must be 0 or more")
        name = service.upper().replace("-", "_")
        return cls(
            metrics_listen=env.string(f"TESSERA_{name}_METRICS_LISTEN", None),
            otlp_endpoint=env.string("TESSERA_OTLP_ENDPOINT", None),
            clickhouse=(
                ClickHouseConfig.from_env(env)
                if env.boolean("TESSERA_TELEMETRY_CLICKHOUSE", False)
                else None
            ),
            log_level=level,
            sample_ratio=ratio,
            most_traces_per_second=most,
        )


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """The model runtime: within the process that asks it, where there is a library, or behind gRPC.

    A library comes with the folders of its backends and caches.
    """

    grpc_target: str
    """`host:port` of its gRPC door; empty for none."""
    library: Path | None = None
    """`libtritonserver`; None to ask at the door."""
    backends: Path = Path()
    """A folder for each backend."""
    caches: Path = Path()
    """A folder for each response cache; one that is not there leaves them out."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read TESSERA_TRITON_LIBRARY, _BACKENDS and _CACHES, or TESSERA_TRITON_GRPC_TARGET.

        Raises:
            ConfigError: There is neither a library nor a target, or no backends for the library, or
                gRPC would follow the library's forks, which ends the process at times.
        """
        env = Env.of(source)
        library = env.path("TESSERA_TRITON_LIBRARY", None)
        if library is None:
            return cls(env.string("TESSERA_TRITON_GRPC_TARGET"))
        if env.string("GRPC_ENABLE_FORK_SUPPORT", None) != "0":
            raise ConfigError("GRPC_ENABLE_FORK_SUPPORT must be 0 with TESSERA_TRITON_LIBRARY")
        return cls(
            env.string("TESSERA_TRITON_GRPC_TARGET", ""),
            library,
            env.path("TESSERA_TRITON_BACKENDS"),
            env.path("TESSERA_TRITON_CACHES", library.parent / "caches"),
        )


@dataclass(frozen=True, slots=True)
class TargetsConfig:
    """gRPC targets of the services; empty where the reader did not ask for one and none is set."""

    catalog: str = ""
    """The catalog service."""
    tracking: str = ""
    """The tracking service."""
    training: str = ""
    """The training service."""
    inference: str = ""
    """The inference service's control plane."""
    gateway: str = ""
    """The inference gateway (Open Inference Protocol v2)."""
    monitoring: str = ""
    """The monitoring service."""

    @classmethod
    def from_env(cls, source: Source, *needed: str) -> Self:
        """Read TESSERA_<SERVICE>_TARGET of every service.

        Raises:
            ConfigError: One of `needed` (field names of this class) is not set.
        """
        env = Env.of(source)
        for name in needed:
            env.string(f"TESSERA_{name.upper()}_TARGET")
        names = ("catalog", "tracking", "training", "inference", "gateway", "monitoring")
        return cls(**{name: env.string(f"TESSERA_{name.upper()}_TARGET", "") for name in names})
