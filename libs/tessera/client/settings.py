"""Where a client finds the platform, and who it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tessera_kit.config import ConfigError, Env, Secret

_DOORS = ("catalog", "tracking", "training", "inference", "monitoring", "gateway")
_VARIABLES = {"kafka": "TESSERA_KAFKA_BOOTSTRAP", "tracking_http": "TESSERA_TRACKING_HTTP_URL"}
"""Doors that are named otherwise than gRPC targets."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The doors of one platform and the caller's token; a door that is not known is empty."""

    catalog: str
    """gRPC target of the catalog, as `host:port`."""
    tracking: str
    """gRPC target of tracking."""
    training: str
    """gRPC target of training."""
    inference: str
    """gRPC target of inference's control plane."""
    monitoring: str
    """gRPC target of monitoring."""
    gateway: str
    """gRPC target of the gateway, which speaks the Open Inference Protocol."""
    kafka: str
    """Kafka's bootstrap servers, for those who produce events."""
    tracking_http: str
    """URL of tracking's HTTP door, which speaks MLflow's REST."""
    token: Secret | None
    """The caller's token; None for doors that need none."""
    ca_file: Path | None = None
    """Certificates to trust when the doors speak TLS; None for doors that do not."""

    def door(self, name: str) -> str:
        """The target of a door, the bootstrap servers of `kafka`, the URL of `tracking_http`.

        Raises:
            ConfigError: It is not known; the text names the variable that sets it.
        """
        if target := str(getattr(self, name)):
            return target
        variable = _VARIABLES.get(name, f"TESSERA_{name.upper()}_TARGET")
        raise ConfigError(f"the door {name} of the platform is not known; set {variable}")

    @classmethod
    def from_env(cls, source: Mapping[str, str] | None = None) -> Self:
        """Reads `TESSERA_<SERVICE>_TARGET`, `TESSERA_KAFKA_BOOTSTRAP` and the token's variables.

        What the environment leaves open is taken from `stack.json` in the data directory
        (`TESSERA_HOME`, or `.tessera` in the working directory), which `infra/run up` writes.

        Raises:
            ConfigError: No door is in the environment or in a stack's data directory.
        """
        env = Env(os.environ if source is None else source)
        home = env.path("TESSERA_HOME", Path(".tessera"))
        state = _read_state(home / "stack.json")
        known: Mapping[str, str] = state.get("doors", {})
        doors = {
            door: env.string(f"TESSERA_{door.upper()}_TARGET", known.get(door)) for door in _DOORS
        }
        doors |= {door: env.string(name, known.get(door)) for door, name in _VARIABLES.items()}
        if not any(doors.values()):
            raise ConfigError(
                f"no stack is known in {home} and the environment names no door of one "
                "(TESSERA_CATALOG_TARGET and its like); run `infra/run up`, or set TESSERA_HOME"
            )
        return cls(
            **{door: target or "" for door, target in doors.items()},
            token=_sendable(_read_token(env, state.get("files", {}))),
            ca_file=env.path("TESSERA_TLS_CA_FILE", None),
        )


def _read_state(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _sendable(token: Secret | None) -> Secret | None:
    """The token, which must be able to stand in a header."""
    if token is None or (token.reveal().isascii() and token.reveal().isprintable()):
        return token
    raise ConfigError(
        "the token (TESSERA_TOKEN, or TESSERA_TOKEN_FILE's content) has characters that no token "
        "has, as a line's end"
    )


def _read_token(env: Env, files: Mapping[str, str]) -> Secret | None:
    if token := env.secret("TESSERA_TOKEN", None):
        return token
    path = env.path("TESSERA_TOKEN_FILE", None) or (
        files.get("admin_token") and Path(files["admin_token"])
    )
    if not path:
        return None
    try:
        return Secret(Path(path).read_text().strip())
    except OSError as error:
        raise ConfigError(f"the token file {path} cannot be read: {error.strerror}") from None
