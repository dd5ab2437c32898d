"""One body over what reads secrets, in memory and from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from services.inference.adapters.memory import InMemorySecrets
from services.inference.adapters.secret_files import READERS, FileSecrets
from services.inference.errors import SecretNotFound
from services.inference.ports import Secrets

Put = Callable[[str, str, str, Sequence[str]], None]


class SecretsContract:
    """What `ports.Secrets` promises."""

    async def test_a_reader_reads_what_is_there(self, secrets: Secrets, put: Put) -> None:
        put("prod", "db.password", "p4ss word", ["ada", "bob"])
        secret = await secrets.read("ada", "prod", "db.password")
        assert secret.reveal() == "p4ss word"
        assert "p4ss" not in f"{secret} {secret!r}"
        put("prod", "db.password", "another", ["*"])
        assert (await secrets.read("anybody", "prod", "db.password")).reveal() == "another"

    async def test_what_is_missing_looks_like_what_may_not_be_read(
        self, secrets: Secrets, put: Put
    ) -> None:
        put("prod", "key", "value", ["ada"])
        put("closed", "key", "value", [])
        for who, scope, key in (
            *(("bob", "prod", "key"), ("ada", "prod", "other"), ("ada", "none", "key")),
            *(("ada", "closed", "key"), ("", "closed", "key"), ("ada", "..", "key")),
            *(("ada", "prod", "../prod/key"), ("ada", "prod", READERS), ("ada", "", "")),
        ):
            with pytest.raises(SecretNotFound, match="no secret"):
                await secrets.read(who, scope, key)


class TestMemory(SecretsContract):
    @pytest.fixture
    def secrets(self) -> InMemorySecrets:
        return InMemorySecrets()

    @pytest.fixture
    def put(self, secrets: InMemorySecrets) -> Put:
        return lambda scope, key, value, readers: secrets.put(scope, key, value, *readers)


class TestFiles(SecretsContract):
    @pytest.fixture
    def secrets(self, tmp_path: Path) -> FileSecrets:
        return FileSecrets(tmp_path)

    @pytest.fixture
    def put(self, tmp_path: Path) -> Put:
        def write(scope: str, key: str, value: str, readers: Sequence[str]) -> None:
            folder = tmp_path / scope
            folder.mkdir(exist_ok=True)
            (folder / READERS).write_text("".join(f"{reader}\n" for reader in readers))
            (folder / key).write_text(f"{value}\n")

        return write

    async def test_a_scope_without_readers_and_a_file_too_large_are_not_read(
        self, tmp_path: Path, secrets: FileSecrets, put: Put
    ) -> None:
        put("prod", "large", "x" * (64 << 10), ["*"])
        with pytest.raises(SecretNotFound):
            await secrets.read("ada", "prod", "large")
        put("prod", "key", "value", ["*"])
        (tmp_path / "prod" / READERS).unlink()
        with pytest.raises(SecretNotFound):
            await secrets.read("ada", "prod", "key")

    async def test_without_a_folder_there_are_none(self) -> None:
        with pytest.raises(SecretNotFound):
            await FileSecrets(None).read("ada", "prod", "key")
