"""Several storage locations per execution, and repairs that copy a backup to one that is behind."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"

ID = sa.Uuid().with_variant(sa.LargeBinary(16), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
JSON = sa.JSON().with_variant(JSONB(), "postgresql")
WORD = sa.String(32)
ACTIVE = sa.text("status IN ('queued', 'running')")
BEHIND = sa.text("status = 'behind'")


def upgrade() -> None:
    _create_execution_targets()
    _create_repairs()


def downgrade() -> None:
    """What is stored twice is then known once: further copies become directories that no execution names."""
    op.drop_table("repairs")
    op.drop_table("execution_targets")


def _create_execution_targets() -> None:
    table = "execution_targets"
    op.create_table(
        table,
        *_row(table),
        _needed("execution_id", ID),
        _needed("storage_location_id", ID),
        _needed("position", sa.Integer()),
        _needed("status", WORD),
        _maybe("error", sa.String(50)),
        _maybe("error_message", sa.Text()),
        _maybe("size_bytes", sa.BigInteger()),
        _needed("failed_repairs", sa.Integer()),
        _maybe("next_repair_at", TIME),
        _refers(table, "execution_id", "backup_executions", "CASCADE"),
        _refers(table, "storage_location_id", "storage_locations"),
        sa.UniqueConstraint(
            "execution_id", "storage_location_id", name=op.f(f"uq_{table}_execution_id_storage_location_id")
        ),
        _words(table, "target_status", ("pending", "stored", "behind", "unused")),
    )
    op.create_index(f"ix_{table}_storage", table, ["storage_location_id", "status", "size_bytes"])
    columns = ["next_repair_at", "id"]
    op.create_index(f"ix_{table}_behind", table, columns, sqlite_where=BEHIND, postgresql_where=BEHIND)


def _create_repairs() -> None:
    table = "repairs"
    op.create_table(
        table,
        *_row(table),
        _needed("storage_location_id", ID),
        _needed("execution_id", ID),
        _needed("status", WORD),
        _maybe("started_at", TIME),
        _maybe("finished_at", TIME),
        _maybe("duration_seconds", sa.Double()),
        _maybe("size_bytes", sa.BigInteger()),
        _maybe("error_message", sa.Text()),
        _maybe("error_stack", sa.Text()),
        _needed("metadata", JSON),
        _needed("attempt", sa.Integer()),
        _needed("enqueue_number", sa.Integer()),
        _needed("cancel_requested", sa.Boolean()),
        _maybe("worker", sa.String(100)),
        _maybe("lease_until", TIME),
        _refers(table, "storage_location_id", "storage_locations"),
        _refers(table, "execution_id", "backup_executions"),
        _words(table, "work_status", ("queued", "running", "completed", "failed", "cancelled")),
    )
    op.create_index(f"ix_{table}_active", table, ["status", "id"], sqlite_where=ACTIVE, postgresql_where=ACTIVE)
    op.create_index(f"ix_{table}_created", table, ["created_at", "id"])
    op.create_index(f"ix_{table}_status", table, ["status", "created_at", "id"])
    op.create_index(f"ix_{table}_execution", table, ["execution_id", "created_at", "id"])
    op.create_index(f"ix_{table}_storage_location_id", table, ["storage_location_id"])
    columns = ["execution_id", "storage_location_id"]
    op.create_index(f"uq_{table}_active", table, columns, unique=True, sqlite_where=ACTIVE, postgresql_where=ACTIVE)


def _row(table: str) -> tuple[sa.Column[Any] | sa.Constraint, ...]:
    key = sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}"))
    return _needed("id", ID), _needed("created_at", TIME), _needed("updated_at", TIME), key


def _needed(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _maybe(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def _refers(table: str, column: str, target: str, ondelete: str = "RESTRICT") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"), ondelete=ondelete)


def _words(table: str, name: str, words: tuple[str, ...]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return sa.CheckConstraint(f"status IN ({listed})", name=op.f(f"ck_{table}_{name}"))
