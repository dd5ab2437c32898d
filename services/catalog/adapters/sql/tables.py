"""The catalog's SQL tables. Times are microseconds since 1970 in UTC."""

from __future__ import annotations

import sqlalchemy as sa

from tessera_kit.bus.tables import outbox_tables

__all__ = [
    "ALIASES",
    "EDGES",
    "FILES",
    "GRANTS",
    "MEMBERS",
    "METADATA",
    "PRINCIPALS",
    "REQUESTS",
    "REVISION",
    "SECURABLES",
    "TOKENS",
    "UPLOADS",
    "VERSIONS",
]

METADATA = sa.MetaData()


def ordered(length: int) -> sa.types.TypeEngine[str]:
    """Text that is ordered by its code points, as SQLite does; PostgreSQL must be told to."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


outbox_tables(METADATA)

SECURABLES = sa.Table(
    "securables",
    METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("type", sa.SmallInteger, nullable=False),
    sa.Column("full_name", ordered(512), nullable=False),
    sa.Column("parent_type", sa.SmallInteger, nullable=True),
    sa.Column("parent_name", ordered(512), nullable=True),
    sa.Column("owner", sa.String(128), nullable=False, index=True),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("haystack", sa.Text, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("etag", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("type", "full_name", name="uq_securables_type_full_name"),
    sa.Index("ix_securables_parent", "parent_name", "type", "full_name"),
    sa.Index("ix_securables_full_name", "full_name", "type"),
)
"""Governed objects; `tags` and `details` are JSON, `haystack` is what a search looks in."""

VERSIONS = sa.Table(
    "model_versions",
    METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column(
        "model_id",
        sa.String(36),
        sa.ForeignKey("securables.id", ondelete="CASCADE"),
        nullable=False,
    ),
    sa.Column("model_name", sa.String(512), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("status_message", sa.Text, nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("storage_location", sa.String(1024), nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("etag", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("model_id", "version", name="uq_model_versions_number"),
)

ALIASES = sa.Table(
    "model_aliases",
    METADATA,
    sa.Column(
        "model_id",
        sa.String(36),
        sa.ForeignKey("securables.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("alias", ordered(128), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)

FILES = sa.Table(
    "model_files",
    METADATA,
    sa.Column(
        "version_id",
        sa.String(36),
        sa.ForeignKey("model_versions.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("path", ordered(1024), primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("modified_at", sa.BigInteger, nullable=False),
)

UPLOADS = sa.Table(
    "uploads",
    METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column(
        "version_id",
        sa.String(36),
        sa.ForeignKey("model_versions.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    sa.Column("path", ordered(1024), nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
)

PRINCIPALS = sa.Table(
    "principals",
    METADATA,
    sa.Column("name", ordered(128), primary_key=True),
    sa.Column("kind", sa.SmallInteger, nullable=False),
    sa.Column("is_admin", sa.Boolean, nullable=False),
    sa.Column("protected", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

MEMBERS = sa.Table(
    "group_members",
    METADATA,
    sa.Column(
        "group_name",
        ordered(128),
        sa.ForeignKey("principals.name", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column(
        "member",
        ordered(128),
        sa.ForeignKey("principals.name", ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
)

TOKENS = sa.Table(
    "tokens",
    METADATA,
    sa.Column("token_id", ordered(64), primary_key=True),
    sa.Column(
        "principal",
        ordered(128),
        sa.ForeignKey("principals.name", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    sa.Column("sha256", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=True),
    sa.Column("revoked", sa.Boolean, nullable=False),
    sa.Column("bootstrap", sa.Boolean, nullable=False),
)
"""Tokens by the SHA-256 of their text; the text itself is nowhere."""

GRANTS = sa.Table(
    "grants",
    METADATA,
    sa.Column(
        "securable_id",
        sa.String(36),
        sa.ForeignKey("securables.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column(
        "principal",
        ordered(128),
        sa.ForeignKey("principals.name", ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
    sa.Column("privilege", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("granted_by", sa.String(128), nullable=False),
    sa.Column("granted_at", sa.BigInteger, nullable=False),
)

EDGES = sa.Table(
    "lineage_edges",
    METADATA,
    sa.Column("source", ordered(560), primary_key=True),
    sa.Column("target", ordered(560), primary_key=True),
    sa.Column("observed_at", sa.BigInteger, nullable=False),
    sa.Column("principal", sa.String(128), nullable=False),
    sa.Column("source_version", sa.String(64), nullable=False, server_default=""),
    sa.Index("ix_lineage_edges_target", "target", "observed_at"),
    sa.Index("ix_lineage_edges_source", "source", "observed_at"),
)
"""Nodes are written as the number of their kind, a colon and their name."""

REQUESTS = sa.Table(
    "requests",
    METADATA,
    sa.Column("principal", sa.String(128), primary_key=True),
    sa.Column("method", sa.String(64), primary_key=True),
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
)

REVISION = sa.Table(
    "access_revision",
    METADATA,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
"""One row, counted up by every commit that changes something for decisions."""
