"""Alembic's environment of monitoring's database."""

from __future__ import annotations

from tessera_kit.store.migrate import run_migrations

run_migrations()
