"""Who may do what: roles, permissions, and the actor that every request and every change is made by."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """`viewer` looks; `operator` also runs, and restores into what is not production; `admin` may do everything."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"


class Permission(StrEnum):
    """What a route asks for. `view` never shows a secret; `restore` stops at datasources that are production."""

    VIEW = "view"
    RUN = "run"
    RESTORE = "restore"
    RESTORE_PRODUCTION = "restore_production"
    MANAGE = "manage"
    ADMINISTER = "administer"


GRANTED: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.VIEW}),
    Role.OPERATOR: frozenset({Permission.VIEW, Permission.RUN, Permission.RESTORE}),
    Role.ADMIN: frozenset(Permission),
}


class ActorKind(StrEnum):
    """`system`: DataGuardian itself; `console`: a command on the machine that holds the home directory."""

    USER = "user"
    TOKEN = "token"  # noqa: S105 -- a kind of actor
    CONSOLE = "console"
    SYSTEM = "system"


@dataclass(frozen=True)
class Actor:
    """Who makes a request or a change. `datasources` of None means all of them; `address` is the client's; `user_id` is
    the user, also of a token that belongs to one.
    """

    kind: ActorKind
    name: str
    role: Role
    permissions: frozenset[Permission]
    id: uuid.UUID | None = None
    datasources: frozenset[uuid.UUID] | None = None
    address: str | None = None
    user_id: uuid.UUID | None = None

    def may(self, permission: Permission) -> bool:
        return permission in self.permissions

    def may_touch(self, datasource_id: uuid.UUID) -> bool:
        """Tells whether the actor's limit, when there is one, has this datasource in it."""
        return self.datasources is None or datasource_id in self.datasources


SYSTEM = Actor(ActorKind.SYSTEM, "dataguardian", Role.ADMIN, frozenset(Permission))
