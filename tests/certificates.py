"""Certificates for tests of TLS, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Authorities:
    """Certificates made for one test run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.make("ca", "/CN=test authority", None)
        self.make("server", "/CN=localhost", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        self.make("client", "/CN=client", "ca")
        self.make("stranger", "/CN=stranger", None)

    def make(self, name: str, subject: str, signer: str | None, extension: str = "") -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", subject]
        command += ["-keyout", str(self.key(name)), "-out", str(self.cert(name))]
        if signer:
            command += ["-CA", str(self.cert(signer)), "-CAkey", str(self.key(signer))]
            command += ["-addext", "basicConstraints=critical,CA:false"]
        if extension:
            command += ["-addext", extension]
        subprocess.run(command, check=True, capture_output=True)

    def cert(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"


def made_authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """A new authority with its certificates; skips the test where openssl is missing."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificates to test TLS with")
    return Authorities(tmp_path_factory.mktemp("tls"))
