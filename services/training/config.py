"""Settings of the training service, read from the environment once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tessera_kit.config import (
    ConfigError,
    DatabaseConfig,
    Env,
    KafkaConfig,
    RpcConfig,
    S3Config,
    Secret,
    Source,
    TargetsConfig,
    TelemetryConfig,
)
from tessera_kit.rpc.tls import ClientTls

__all__ = ["Config", "JobConfig"]

_GIT_HOSTS = "bitbucket.org,codeberg.org,github.com,gitlab.com"


@dataclass(frozen=True, slots=True)
class JobConfig:
    """How jobs run."""

    folder: Path
    """Where attempts run and their logs are kept."""
    slots: int
    """CPU slots: how many threads of jobs may compute at once."""
    gpus: int
    """How many GPUs jobs may use."""
    grace_seconds: float
    """How long a process that is asked to end may take."""
    log_limit_bytes: int
    """How much one attempt may log."""
    log_days: float
    """How long logs of ended attempts are kept."""
    checkpoint_file_bytes: int
    """Largest file of a checkpoint."""
    keep_checkpoints: int
    """Complete checkpoints that a running job keeps."""
    nice: int
    """Added to the niceness of jobs' processes, so that services answer first."""
    git_hosts: frozenset[str]
    """Hosts whose Git repositories may be fetched."""
    git_file_root: str
    """Folder under which `file://` repositories may be fetched; none are when empty."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read TESSERA_DATA_DIR and TESSERA_TRAINING_*."""
        env = Env.of(source)
        slots = env.integer("TESSERA_TRAINING_SLOTS", os.cpu_count() or 1)
        keep = env.integer("TESSERA_TRAINING_KEEP_CHECKPOINTS", 2)
        if slots < 1:
            raise ConfigError("TESSERA_TRAINING_SLOTS must be at least 1")
        if keep < 1:
            raise ConfigError("TESSERA_TRAINING_KEEP_CHECKPOINTS must be at least 1")
        hosts = env.string("TESSERA_TRAINING_GIT_HOSTS", _GIT_HOSTS)
        return cls(
            folder=env.path("TESSERA_DATA_DIR").absolute() / "jobs",
            slots=slots,
            gpus=env.integer("TESSERA_TRAINING_GPUS", 0),
            grace_seconds=env.duration("TESSERA_TRAINING_STOP_GRACE", 8.0),
            log_limit_bytes=env.integer("TESSERA_TRAINING_LOG_LIMIT_MIB", 256) << 20,
            log_days=env.number("TESSERA_TRAINING_LOG_DAYS", 30.0),
            checkpoint_file_bytes=env.integer("TESSERA_TRAINING_CHECKPOINT_LIMIT_MIB", 65_536)
            << 20,
            keep_checkpoints=keep,
            nice=env.integer("TESSERA_TRAINING_NICE", 5),
            git_hosts=frozenset(host.strip().lower() for host in hosts.split(",") if host.strip()),
            git_file_root=env.string("TESSERA_TRAINING_GIT_FILE_ROOT", ""),
        )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of the process."""

    rpc: RpcConfig
    """The gRPC door."""
    database: DatabaseConfig
    """Where jobs, triggers and chores are kept."""
    kafka: KafkaConfig
    """The bus."""
    s3: S3Config
    """Where checkpoints are kept."""
    targets: TargetsConfig
    """The other services; handed on to jobs."""
    token: Secret
    """This service's own token."""
    tls: ClientTls | None
    """How the other services' certificates are checked."""
    telemetry: TelemetryConfig
    """Where telemetry goes."""
    jobs: JobConfig
    """How jobs run."""

    @classmethod
    def from_env(cls, source: Source) -> Self:
        """Read every setting.

        Raises:
            ConfigError: A variable is missing or wrong; the text names it.
        """
        env = Env.of(source)
        return cls(
            rpc=RpcConfig.from_env(env, "training"),
            database=DatabaseConfig.from_env(env, "training"),
            kafka=KafkaConfig.from_env(env),
            s3=S3Config.from_env(env),
            targets=TargetsConfig.from_env(env, "catalog", "tracking"),
            token=env.secret_file("TESSERA_SERVICE_TOKEN_FILE"),
            tls=ClientTls.from_env(env),
            telemetry=TelemetryConfig.from_env(env, "training"),
            jobs=JobConfig.from_env(env),
        )

    def job_variables(self) -> dict[str, str]:
        """TESSERA_* variables by which the public client finds the platform inside a job."""
        targets = self.targets
        variables = {
            "TESSERA_CATALOG_TARGET": targets.catalog,
            "TESSERA_TRACKING_TARGET": targets.tracking,
            "TESSERA_TRAINING_TARGET": targets.training,
            "TESSERA_INFERENCE_TARGET": targets.inference,
            "TESSERA_GATEWAY_TARGET": targets.gateway,
            "TESSERA_MONITORING_TARGET": targets.monitoring,
            "TESSERA_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
        }
        if self.tls is not None and self.tls.ca_file is not None:
            variables["TESSERA_TLS_CA_FILE"] = str(self.tls.ca_file)
        return {name: value for name, value in variables.items() if value}
