"""Users, sessions, tokens, the audit log; which datasources are production; why something failed, for programs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"

ID = sa.Uuid().with_variant(sa.LargeBinary(16), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
JSON = sa.JSON().with_variant(JSONB(), "postgresql")
WORD = sa.String(32)
ROLES = ("admin", "operator", "viewer")
ENDED = ("backup_executions", "restores", "verifications", "repairs")
ACTORS = ("user", "token", "console", "system")


def upgrade() -> None:
    with op.batch_alter_table("datasources") as batch:
        # What was there before is taken for production: nobody has said otherwise.
        batch.add_column(sa.Column("production", sa.Boolean(), nullable=False, server_default=sa.true()))
    with op.batch_alter_table("datasources") as batch:
        batch.alter_column("production", server_default=None)
    for table in ENDED:
        op.add_column(table, sa.Column("error_code", sa.String(50), nullable=True))  # without copying a million rows
    _create_users()
    _create_sign_ins()
    _create_api_tokens()
    _create_audit_entries()


def downgrade() -> None:
    op.drop_table("audit_entries")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_entries_stay()")
    op.drop_table("api_tokens")
    op.drop_table("sign_ins")
    op.drop_table("users")
    for table in ENDED:
        op.drop_column(table, "error_code")
    with op.batch_alter_table("datasources") as batch:
        batch.drop_column("production")


def _create_users() -> None:
    table = "users"
    op.create_table(
        table,
        *_row(table),
        _needed("name", sa.String(100)),
        _needed("password_hash", sa.Text()),
        _needed("role", WORD),
        _needed("enabled", sa.Boolean()),
        _maybe("datasource_ids", JSON),
        _maybe("totp_secret", sa.Text()),
        _needed("totp_confirmed", sa.Boolean()),
        _maybe("totp_last_step", sa.BigInteger()),
        _needed("recovery_codes", JSON),
        _needed("failed_sign_ins", sa.Integer()),
        _maybe("locked_until", TIME),
        _needed("password_changed_at", TIME),
        _maybe("last_sign_in_at", TIME),
        sa.UniqueConstraint("name", name=op.f(f"uq_{table}_name")),
        _words(table, "role", "role", ROLES),
    )


def _create_sign_ins() -> None:
    table = "sign_ins"
    op.create_table(
        table,
        *_row(table),
        _needed("user_id", ID),
        _needed("secret_hash", sa.String(64)),
        _needed("csrf_hash", sa.String(64)),
        _needed("expires_at", TIME),
        _needed("last_seen_at", TIME),
        _needed("address", sa.String(100)),
        _needed("user_agent", sa.String(300)),
        _refers(table, "user_id", "users"),
        sa.UniqueConstraint("secret_hash", name=op.f(f"uq_{table}_secret_hash")),
    )
    op.create_index(f"ix_{table}_expires", table, ["expires_at"])
    op.create_index(f"ix_{table}_user_id", table, ["user_id"])


def _create_api_tokens() -> None:
    table = "api_tokens"
    op.create_table(
        table,
        *_row(table),
        _needed("name", sa.String(100)),
        _needed("secret_hash", sa.String(64)),
        _needed("shown_as", sa.String(20)),
        _needed("role", WORD),
        _maybe("permissions", JSON),
        _maybe("datasource_ids", JSON),
        _maybe("user_id", ID),
        _maybe("expires_at", TIME),
        _maybe("revoked_at", TIME),
        _maybe("last_used_at", TIME),
        _maybe("last_used_from", sa.String(100)),
        _needed("is_local", sa.Boolean()),
        _refers(table, "user_id", "users"),
        sa.UniqueConstraint("secret_hash", name=op.f(f"uq_{table}_secret_hash")),
        _words(table, "role", "role", ROLES),
    )
    op.create_index(f"ix_{table}_user_id", table, ["user_id"])


def _create_audit_entries() -> None:
    table = "audit_entries"
    op.create_table(
        table,
        _needed("number", sa.BigInteger(), autoincrement=False),
        _needed("created_at", TIME),
        _needed("actor_kind", WORD),
        _maybe("actor_id", ID),
        _needed("actor_name", sa.String(100)),
        _maybe("address", sa.String(100)),
        _maybe("request_id", sa.String(64)),
        _needed("action", sa.String(60)),
        _maybe("entity_type", sa.String(40)),
        _maybe("entity_id", ID),
        _maybe("entity_name", sa.String(200)),
        _needed("changes", JSON),
        _needed("previous_hash", sa.String(64)),
        _needed("hash", sa.String(64)),
        sa.PrimaryKeyConstraint("number", name=op.f(f"pk_{table}")),
        _words(table, "actor_kind", "actor_kind", ACTORS),
    )
    op.create_index(f"ix_{table}_entity", table, ["entity_id", "number"])
    op.create_index(f"ix_{table}_entity_type", table, ["entity_type", "number", "created_at", "action"])
    op.create_index(f"ix_{table}_action", table, ["action", "number", "created_at"])
    op.create_index(f"ix_{table}_actor", table, ["actor_name", "number", "created_at", "action"])
    op.create_index(f"ix_{table}_created", table, ["created_at", "number"])
    for statement in _SQLITE_STAYS if op.get_bind().dialect.name == "sqlite" else _POSTGRES_STAYS:
        op.execute(statement)


_REFUSAL = "the audit log is append-only"
_SQLITE_STAYS = (
    *(
        f"CREATE TRIGGER audit_entries_no_{verb.lower()} BEFORE {verb} ON audit_entries "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for verb in ("UPDATE", "DELETE")
    ),
    (  # INSERT OR REPLACE deletes without asking a trigger of deletions.
        "CREATE TRIGGER audit_entries_follow BEFORE INSERT ON audit_entries "  # noqa: S608 -- constants of this module
        "WHEN NEW.number <> coalesce((SELECT max(number) FROM audit_entries), 0) + 1 "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    ),
)
_POSTGRES_STAYS = (
    (
        "CREATE FUNCTION audit_entries_stay() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
    ),
    (
        "CREATE TRIGGER audit_entries_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_entries_stay()"
    ),
)


def _row(table: str) -> tuple[sa.Column[Any] | sa.Constraint, ...]:
    key = sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}"))
    return _needed("id", ID), _needed("created_at", TIME), _needed("updated_at", TIME), key


def _needed(name: str, kind: sa.types.TypeEngine[Any], **options: Any) -> sa.Column[Any]:  # noqa: ANN401 -- sa.Column's
    return sa.Column(name, kind, nullable=False, **options)


def _maybe(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def _refers(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")


def _words(table: str, column: str, name: str, words: tuple[str, ...]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(f"ck_{table}_{name}"))
