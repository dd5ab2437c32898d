"""What the service tells a job about itself, in environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tessera_kit.config import Env, Secret

__all__ = ["Surroundings"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A running job's identity, rights and doors."""

    job_id: str
    """Its id."""
    attempt: int
    """Which attempt this is, from 1."""
    run_id: str
    """Its tracking run."""
    output_model: str
    """Full name of the registered model that it adds a version to; empty for none."""
    rank: int
    """Which of its processes this is, from 0."""
    world_size: int
    """How many processes it has."""
    catalog: str
    """gRPC target of the catalog."""
    tracking: str
    """gRPC target of tracking."""
    training: str
    """gRPC target of training."""
    token: Secret
    """Good for as long as the attempt runs."""
    ca_file: Path | None
    """Certificates to trust where the doors speak TLS."""

    @classmethod
    def from_env(cls, source: Mapping[str, str] | None = None) -> Self:
        """Read the variables that the training service sets.

        Raises:
            ConfigError: One is missing: this process is not of a training job.
        """
        env = Env(os.environ if source is None else source)
        return cls(
            job_id=env.string("TESSERA_JOB_ID"),
            attempt=env.integer("TESSERA_JOB_ATTEMPT"),
            run_id=env.string("TESSERA_RUN_ID"),
            output_model=env.string("TESSERA_OUTPUT_MODEL", ""),
            rank=env.integer("RANK", 0),
            world_size=env.integer("WORLD_SIZE", 1),
            catalog=env.string("TESSERA_CATALOG_TARGET"),
            tracking=env.string("TESSERA_TRACKING_TARGET"),
            training=env.string("TESSERA_TRAINING_TARGET"),
            token=env.secret_file("TESSERA_TOKEN_FILE"),
            ca_file=env.path("TESSERA_TLS_CA_FILE", None),
        )
