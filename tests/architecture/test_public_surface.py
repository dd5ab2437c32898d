"""What users import is what is meant to be imported, and it is there at first use."""

from __future__ import annotations

import subprocess
import sys

import tessera


def test_public_names_are_frozen() -> None:
    assert tessera.__all__ == [
        "AsyncClient",
        "Client",
        "PipelineStep",
        "Settings",
        "TensorSpec",
        "TesseraError",
        "label",
    ]
    for name in tessera.__all__:
        assert getattr(tessera, name) is not None


def test_contracts_import_without_the_client() -> None:
    code = (
        "import sys; import tessera.catalog.v1.catalog_pb2; "
        "heavy = ('tessera.client', 'aiokafka', 'torch'); "
        "sys.exit(any(name.startswith(heavy) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_client_does_not_pull_in_what_only_services_need() -> None:
    code = (
        "import sys; from tessera import Client; "
        "heavy = ('torch', 'faust', 'sqlalchemy', 'clickhouse_connect', 'chdb', 'pandas'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
