"""TLS credentials of both ends, read from PEM files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from tessera_kit.config import ConfigError, Env, RpcConfig

__all__ = ["ClientTls", "server_credentials"]


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a client checks the server and, with mTLS, shows who it is."""

    ca_file: Path | None = None
    """PEM authorities that may sign the server's certificate; the system's when None."""
    cert_file: Path | None = None
    """PEM certificate chain of the client, for mTLS."""
    key_file: Path | None = None
    """PEM private key of the client's certificate."""
    server_name: str | None = None
    """Name to expect in the server's certificate when the target's is another."""

    @classmethod
    def from_env(cls, source: Env | Mapping[str, str]) -> Self | None:
        """Read TESSERA_TLS_CA_FILE, and the process's own certificate for mTLS; None without."""
        env = Env.of(source)
        ca_file = env.path("TESSERA_TLS_CA_FILE", None)
        if ca_file is None:
            return None
        return cls(
            ca_file=ca_file,
            cert_file=env.path("TESSERA_TLS_CERT_FILE", None),
            key_file=env.path("TESSERA_TLS_KEY_FILE", None),
        )

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            ConfigError: A file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.cert_file),
        )


def server_credentials(config: RpcConfig) -> grpc.ServerCredentials | None:
    """Return the door's credentials; None when it is to speak plain text.

    Raises:
        ConfigError: A file cannot be read.
    """
    key, chain = _read(config.tls_key_file), _read(config.tls_cert_file)
    if key is None or chain is None:
        return None
    client_ca = _read(config.tls_client_ca_file)
    return grpc.ssl_server_credentials(
        [(key, chain)],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the TLS file {path}: {error.strerror}") from None
