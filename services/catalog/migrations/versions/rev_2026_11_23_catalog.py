"""The catalog's first tables."""

import sqlalchemy as sa
from alembic import op

from tessera_kit.store import bus_tables_v1

revision = "2026_11_23_catalog"
down_revision = None


def _ordered(length: int) -> sa.types.TypeEngine[str]:
    # Ordered by code points, as SQLite does.
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    bus_tables_v1.create()
    _securables()
    _models()
    _principals()
    op.create_table(
        "lineage_edges",
        sa.Column("source", _ordered(560), primary_key=True),
        sa.Column("target", _ordered(560), primary_key=True),
        sa.Column("observed_at", sa.BigInteger, nullable=False),
        sa.Column("principal", sa.String(128), nullable=False),
    )
    op.create_index("ix_lineage_edges_target", "lineage_edges", ["target", "observed_at"])
    op.create_index("ix_lineage_edges_source", "lineage_edges", ["source", "observed_at"])
    op.create_table(
        "requests",
        sa.Column("principal", sa.String(128), primary_key=True),
        sa.Column("method", sa.String(64), primary_key=True),
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_requests_created_at", "requests", ["created_at"])
    revision_table = op.create_table(
        "access_revision",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(revision_table, [{"id": 1, "revision": 0}])


def _securables() -> None:
    op.create_table(
        "securables",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("type", sa.SmallInteger, nullable=False),
        sa.Column("full_name", _ordered(512), nullable=False),
        sa.Column("parent_type", sa.SmallInteger, nullable=True),
        sa.Column("parent_name", _ordered(512), nullable=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("haystack", sa.Text, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("etag", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("type", "full_name", name="uq_securables_type_full_name"),
    )
    op.create_index("ix_securables_owner", "securables", ["owner"])
    op.create_index("ix_securables_parent", "securables", ["parent_name", "type", "full_name"])
    op.create_index("ix_securables_full_name", "securables", ["full_name", "type"])


def _models() -> None:
    op.create_table(
        "model_versions",
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
    op.create_table(
        "model_aliases",
        sa.Column(
            "model_id",
            sa.String(36),
            sa.ForeignKey("securables.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("alias", _ordered(128), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "model_files",
        sa.Column(
            "version_id",
            sa.String(36),
            sa.ForeignKey("model_versions.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("path", _ordered(1024), primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column(
            "version_id",
            sa.String(36),
            sa.ForeignKey("model_versions.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("path", _ordered(1024), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_uploads_version_id", "uploads", ["version_id"])


def _principals() -> None:
    op.create_table(
        "principals",
        sa.Column("name", _ordered(128), primary_key=True),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("protected", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "group_members",
        sa.Column(
            "group_name",
            _ordered(128),
            sa.ForeignKey("principals.name", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column(
            "member",
            _ordered(128),
            sa.ForeignKey("principals.name", ondelete="CASCADE"),
            primary_key=True,
        ),
    )
    op.create_index("ix_group_members_member", "group_members", ["member"])
    op.create_table(
        "tokens",
        sa.Column("token_id", _ordered(64), primary_key=True),
        sa.Column(
            "principal",
            _ordered(128),
            sa.ForeignKey("principals.name", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("sha256", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=True),
        sa.Column("revoked", sa.Boolean, nullable=False),
        sa.Column("bootstrap", sa.Boolean, nullable=False),
    )
    op.create_index("ix_tokens_principal", "tokens", ["principal"])
    op.create_table(
        "grants",
        sa.Column(
            "securable_id",
            sa.String(36),
            sa.ForeignKey("securables.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column(
            "principal",
            _ordered(128),
            sa.ForeignKey("principals.name", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("privilege", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("granted_by", sa.String(128), nullable=False),
        sa.Column("granted_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_grants_principal", "grants", ["principal"])


def downgrade() -> None:
    for table in (
        "access_revision",
        "requests",
        "lineage_edges",
        "grants",
        "tokens",
        "group_members",
        "principals",
        "uploads",
        "model_files",
        "model_aliases",
        "model_versions",
        "securables",
    ):
        op.drop_table(table)
    bus_tables_v1.drop()
