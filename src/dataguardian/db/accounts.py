"""The tables of access and of the audit log. Of passwords, sessions and tokens only hashes are stored."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from dataguardian.db.models import Base, Row
from dataguardian.db.types import word
from dataguardian.domain.access import ActorKind, Role


class User(Row, Base):
    __tablename__ = "users"

    name: Mapped[str] = mapped_column(String(100), unique=True)
    """In lower case: two users never differ in case alone."""
    password_hash: Mapped[str] = mapped_column(Text)
    """argon2id, with its parameters."""
    role: Mapped[Role] = mapped_column(word(Role))
    enabled: Mapped[bool]
    datasource_ids: Mapped[list[str] | None]
    """None: all of them."""
    totp_secret: Mapped[str | None] = mapped_column(Text)
    """Sealed by the vault."""
    totp_confirmed: Mapped[bool]
    totp_last_step: Mapped[int | None]
    """A code opens once: steps up to this one are spent."""
    recovery_codes: Mapped[list[str]]
    """Hashes of those that are not spent."""
    failed_sign_ins: Mapped[int] = mapped_column(Integer)
    locked_until: Mapped[datetime | None]
    password_changed_at: Mapped[datetime]
    last_sign_in_at: Mapped[datetime | None]


class SignIn(Row, Base):
    """A session of the browser: the cookie holds a secret, this row its SHA-256."""

    __tablename__ = "sign_ins"
    __table_args__ = (Index("ix_sign_ins_expires", "expires_at"),)

    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    csrf_hash: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    address: Mapped[str] = mapped_column(String(100))
    user_agent: Mapped[str] = mapped_column(String(300))


class ApiToken(Row, Base):
    """A token of the API. It is shown once; this row holds its SHA-256 and its first characters."""

    __tablename__ = "api_tokens"

    name: Mapped[str] = mapped_column(String(100))
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    shown_as: Mapped[str] = mapped_column(String(20))
    role: Mapped[Role] = mapped_column(word(Role))
    permissions: Mapped[list[str] | None]
    """Its scope within the role; None: all that the role may do."""
    datasource_ids: Mapped[list[str] | None]
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    """Whose it is; it may never do more than its owner. None: made on the machine itself."""
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    last_used_from: Mapped[str | None] = mapped_column(String(100))
    is_local: Mapped[bool]
    """The one in the home directory that commands on this machine use; a new one is made at each start."""


class AuditEntry(Base):
    """One line of the audit log. Nothing changes or removes one: triggers refuse it. `hash` covers the line and
    `previous_hash`, so that a line that is edited, or missing between two others, is found.
    """

    __tablename__ = "audit_entries"
    __table_args__ = (
        # In the list's order; what follows `number` lets a second filter be answered without a look at the rows.
        Index("ix_audit_entries_entity", "entity_id", "number"),
        Index("ix_audit_entries_entity_type", "entity_type", "number", "created_at", "action"),
        Index("ix_audit_entries_action", "action", "number", "created_at"),
        Index("ix_audit_entries_actor", "actor_name", "number", "created_at", "action"),
        Index("ix_audit_entries_created", "created_at", "number"),
    )

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 1, without gaps."""
    created_at: Mapped[datetime]
    actor_kind: Mapped[ActorKind] = mapped_column(word(ActorKind))
    actor_id: Mapped[uuid.UUID | None]
    actor_name: Mapped[str] = mapped_column(String(100))
    address: Mapped[str | None] = mapped_column(String(100))
    request_id: Mapped[str | None] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(60))
    """What was done, such as `datasource.update` or `session.refused`."""
    entity_type: Mapped[str | None] = mapped_column(String(40))
    entity_id: Mapped[uuid.UUID | None]
    entity_name: Mapped[str | None] = mapped_column(String(200))
    changes: Mapped[dict[str, Any]]
    """`{field: [before, after]}`, with secrets masked."""
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
