"""Bodies of /api/setup, /api/session, /api/account, /api/users and /api/tokens."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SecretStr, StringConstraints

from dataguardian.api.dependencies import Moment as Given
from dataguardian.api.schemas.common import Flag, Input, Moment, Name, Output, example, shown, unsent
from dataguardian.db.accounts import ApiToken, SignIn, User
from dataguardian.domain.access import Actor, ActorKind, Permission, Role
from dataguardian.service.access.names import NAME_PATTERN, name_of
from dataguardian.service.access.passwords import LEAST_CHARACTERS, MOST_CHARACTERS
from dataguardian.service.access.sessions import Session, SignedIn

MOST_DATASOURCES = 1000


def _as_kept(text: object) -> object:
    """Names are looked at as they are stored: a pattern of pydantic's own would come before its `to_lower`."""
    return name_of(text) if isinstance(text, str) else text


UserName = Annotated[
    str,
    StringConstraints(pattern=rf"^{NAME_PATTERN}$"),
    BeforeValidator(_as_kept),
    Field(description="In lower case"),
]
AnyName = Annotated[str, StringConstraints(max_length=200)]
Password = Annotated[
    SecretStr,
    Field(
        max_length=4 * MOST_CHARACTERS, description=f"{LEAST_CHARACTERS} to {MOST_CHARACTERS} characters when it is set"
    ),
]
Code = Annotated[str, StringConstraints(max_length=40), Field(description="Six digits of the app, or a recovery code")]
Limit = Annotated[
    list[uuid.UUID] | None,
    Field(
        max_length=MOST_DATASOURCES, description="Only these datasources and what belongs to them; null: all of them"
    ),
]

_ID = "0199e0a2-0000-7000-8000-000000000000"
_PASSWORD = "four words that differ"  # noqa: S105 -- an example


class SetupOut(Output):
    needed: Annotated[bool, Field(description="Whether the first administrator is still to be made")]


class SetupIn(Input):
    model_config = example({"token": "setup_…", "name": "anna", "password": _PASSWORD})

    token: Annotated[SecretStr, Field(max_length=200, description="The console of `dataguardian up` shows it")]
    name: UserName
    password: Password


class SignInBody(Input):
    model_config = example({"name": "anna", "password": _PASSWORD, "code": "123456"})

    name: AnyName
    password: Password
    code: Code | None = None


class UserIn(Input):
    model_config = example({"name": "anna", "password": _PASSWORD, "role": "operator", "datasource_ids": [_ID]})

    name: UserName
    password: Password
    role: Role
    enabled: Flag = True
    datasource_ids: Limit = None


class UserChange(Input):
    """Only what is sent changes. Another role, another limit or disabling ends every session of the user."""

    model_config = example({"role": "viewer", "enabled": True})

    role: Role = unsent()
    enabled: Flag = unsent()
    datasource_ids: Limit = unsent()


class UserOut(Output):
    id: uuid.UUID
    name: str
    role: Role
    enabled: bool
    datasource_ids: list[uuid.UUID] | None
    second_factor: Annotated[bool, Field(description="Whether signing in takes a code, too")]
    recovery_codes_left: int
    failed_sign_ins: int
    locked_until: Moment | None
    password_changed_at: Moment
    last_sign_in_at: Moment | None
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, row: User) -> Self:
        return shown(cls, row, second_factor=row.totp_confirmed, recovery_codes_left=len(row.recovery_codes))


class PasswordIn(Input):
    model_config = example({"password": _PASSWORD})

    password: Password


class PasswordChange(Input):
    model_config = example({"current_password": "the one until now", "password": _PASSWORD})

    current_password: Password
    password: Password


class CodeIn(Input):
    model_config = example({"code": "123456"})

    code: Code


class EnrolOut(Output):
    """Shown once; it counts when it has been confirmed with a code."""

    secret: str
    uri: Annotated[str, Field(description="What a QR code for an authenticator app holds")]


class RecoveryCodesOut(Output):
    """Shown once. Each opens once, in the place of the app's code."""

    recovery_codes: list[str]


class ActorOut(Output):
    """Who makes this request."""

    kind: ActorKind
    id: uuid.UUID | None
    name: str
    role: Role
    permissions: list[Permission]
    datasource_ids: list[uuid.UUID] | None
    user: UserOut | None
    csrf_token: Annotated[
        str | None, Field(description="To be sent as X-CSRF-Token with every change; null for a token")
    ]
    expires_at: Moment | None

    @classmethod
    def of(cls, actor: Actor, signed_in: SignedIn | None, csrf: str | None) -> Self:
        return cls(
            kind=actor.kind,
            id=actor.id,
            name=actor.name,
            role=actor.role,
            permissions=sorted(actor.permissions),
            datasource_ids=None if actor.datasources is None else sorted(actor.datasources),
            user=UserOut.of(signed_in.user) if signed_in else None,
            csrf_token=csrf,
            expires_at=signed_in.expires_at if signed_in else None,
        )


class SessionOut(Output):
    """A session that has begun; its cookie comes with this answer."""

    user: UserOut
    csrf_token: Annotated[str, Field(description="To be sent as X-CSRF-Token with every change")]
    expires_at: Annotated[Moment, Field(description="When it ends unless it is used; a week after the sign-in at last")]

    @classmethod
    def of(cls, session: Session) -> Self:
        return cls(user=UserOut.of(session.user), csrf_token=session.csrf, expires_at=session.expires_at)


class SignInOut(Output):
    id: uuid.UUID
    created_at: Moment
    last_seen_at: Moment
    expires_at: Moment
    address: str
    user_agent: str

    @classmethod
    def of(cls, row: SignIn) -> Self:
        return shown(cls, row)


class EndedOut(Output):
    ended: Annotated[int, Field(description="How many sessions there were")]


class TokenIn(Input):
    model_config = example({"name": "ci", "role": "operator", "permissions": ["view", "run"], "datasource_ids": [_ID]})

    name: Annotated[Name, StringConstraints(max_length=100)]
    role: Role
    permissions: Annotated[
        list[Permission] | None, Field(min_length=1, max_length=10, description="Its scope; null: all of its role")
    ] = None
    datasource_ids: Limit = None
    expires_at: Annotated[Given | None, Field(description="null: never")] = None


class TokenOut(Output):
    id: uuid.UUID
    name: str
    shown_as: Annotated[str, Field(description="How the token begins")]
    role: Role
    permissions: list[Permission] | None
    datasource_ids: list[uuid.UUID] | None
    user_id: Annotated[uuid.UUID | None, Field(description="Whose it is; null: made on the machine itself")]
    is_local: Annotated[bool, Field(description="The one that commands on this machine use")]
    expires_at: Moment | None
    revoked_at: Moment | None
    last_used_at: Moment | None
    last_used_from: str | None
    created_at: Moment

    @classmethod
    def of(cls, row: ApiToken) -> Self:
        return shown(cls, row)


class TokenMade(TokenOut):
    """The only answer that has the token itself."""

    token: str

    @classmethod
    def made(cls, row: ApiToken, token: str) -> Self:
        fields: dict[str, Any] = TokenOut.of(row).model_dump()
        return cls(**fields, token=token)
