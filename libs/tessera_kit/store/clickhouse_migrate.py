"""Numbered SQL files that bring a ClickHouse database up to date."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from importlib import resources

from tessera_kit.errors import FailedPrecondition
from tessera_kit.store.clickhouse import ClickHouse, qualified_name, quote_identifier

__all__ = ["MigrationMismatch", "migrate_clickhouse"]

_log = logging.getLogger(__name__)

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql\Z")
_TABLE = "schema_migrations"


class MigrationMismatch(FailedPrecondition):
    """The database was migrated by other files than these."""

    reason = "MIGRATION_MISMATCH"


@dataclass(frozen=True, slots=True)
class _Migration:
    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def statements(self) -> list[str]:
        """The statements: each ends with a `;` at the end of a line."""
        lines = [line for line in self.text.splitlines() if not line.lstrip().startswith("--")]
        parts = re.split(r";\s*$", "\n".join(lines), flags=re.MULTILINE)
        return [part.strip() for part in parts if part.strip()]


async def migrate_clickhouse(client: ClickHouse, database: str, package: str) -> int:
    """Make a database where it does not exist and run the files that it has not seen.

    ClickHouse has no transactions over DDL: a file that failed half way runs again from its
    beginning, and two processes may run it at once. So every statement must be one that may be
    repeated, as `CREATE TABLE IF NOT EXISTS` or `ALTER TABLE … ADD COLUMN IF NOT EXISTS`. Names in
    it are unqualified, or `{database:Identifier}.name`.

    Args:
        client: Whose configured database must be `database`.
        database: Name of the database.
        package: Importable package that holds `0001_slug.sql`, `0002_slug.sql` …

    Returns:
        How many files were run.

    Raises:
        MigrationMismatch: A file that was run has changed or is gone.
        ValueError: The files are not numbered one by one, or the client has another database.
        QueryRejected: A statement is wrong.
    """
    if client.database != database:
        raise ValueError(f"the client's database is {client.database}, not {database}")
    migrations = _read(package)
    await client.command(
        f"CREATE DATABASE IF NOT EXISTS {quote_identifier(database)}", use_database=False
    )
    table = qualified_name(database, _TABLE)
    await client.command(
        f"CREATE TABLE IF NOT EXISTS {table} (number UInt32, name String, sha256 String, "
        "applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) "
        "ENGINE = ReplacingMergeTree ORDER BY number"
    )
    seen = f"SELECT number, name, sha256 FROM {table} FINAL ORDER BY number"  # noqa: S608
    found = await client.query(seen)
    applied = {number: (name, sha256) for number, name, sha256 in found.rows}
    _check(migrations, applied, database)
    missing = [migration for migration in migrations if migration.number not in applied]
    for migration in missing:
        for statement in migration.statements():
            bound = {"database": database} if "{database:" in statement else None
            await client.command(statement, bound)
        await client.insert(
            _TABLE,
            [[migration.number, migration.name, migration.sha256]],
            ["number", "name", "sha256"],
            database=database,
        )
        _log.info("migrated %s: %s", database, migration.name)
    return len(missing)


def _read(package: str) -> list[_Migration]:
    migrations = sorted(
        (
            _Migration(int(match[1]), entry.name, entry.read_text("utf-8"))
            for entry in resources.files(package).iterdir()
            if (match := _NAME.match(entry.name))
        ),
        key=lambda migration: migration.number,
    )
    if [migration.number for migration in migrations] != list(range(1, len(migrations) + 1)):
        raise ValueError(f"the SQL files of {package} must be numbered 0001, 0002 and so on")
    return migrations


def _check(
    migrations: list[_Migration], applied: dict[int, tuple[str, str]], database: str
) -> None:
    known = {migration.number: migration.sha256 for migration in migrations}
    for number, (name, sha256) in applied.items():
        if known.get(number) != sha256:
            raise MigrationMismatch(
                f"{database} was migrated by a {name} that has changed since or is not known here"
            )
