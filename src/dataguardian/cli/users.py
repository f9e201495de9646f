"""`dataguardian user`: who signs in. Made, changed and removed on the machine that holds the home."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataguardian.cli import look, output
from dataguardian.cli.console import (
    Datasource,
    RoleName,
    at_home,
    datasource_ids,
    datasource_names,
    every,
    iso,
    limit_text,
    role_of,
)
from dataguardian.cli.groups import Yes, confirmed, group, interactive
from dataguardian.cli.options import Json, password_from
from dataguardian.domain.clock import SystemClock
from dataguardian.domain.errors import CancelledError, NotFoundError, UsageError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from dataguardian.db.accounts import User
    from dataguardian.service.services import Services

user = group("Who signs in, on the machine that holds the home.")

STDIN = "-"

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
UserPassword = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help="The password is the first line of FILE; `-` is standard input. Else it is asked for.",
    ),
]


@user.command()
def create(
    name: Name,
    *,
    role: RoleName,
    datasource: Datasource = None,
    password_file: UserPassword = None,
    json: Json = False,
) -> None:
    """Make a user. The first administrator may be made here, too, instead of with the setup token."""
    from dataguardian.domain.access import Role

    wanted, password = Role(role_of(role)), _password(password_file)

    async def work(services: Services) -> tuple[User, dict[str, str]]:
        limit = await datasource_ids(services, datasource)
        row = await services.users.create(name=name, password=password, role=wanted, datasource_ids=limit)
        return row, await datasource_names(services)

    row, names = at_home(work)
    _tell(row, "is made", {"role": row.role.value, "datasources": limit_text(row.datasource_ids, names)}, as_json=json)


@user.command("list")
def list_(*, json: Json = False) -> None:
    """List the users."""

    async def work(services: Services) -> tuple[list[User], dict[str, str]]:
        return await every(services.users.page), await datasource_names(services)

    rows, names = at_home(work)
    if json:
        from dataguardian.api.schemas.access import UserOut
        from dataguardian.api.schemas.common import whole

        output.show_json(whole(rows, UserOut.of).model_dump(mode="json"))
    elif not rows:
        output.show("no users yet: dataguardian user create NAME --role admin")
    else:
        columns = ["NAME", "ROLE", "DATASOURCES", "STATE", "SECOND FACTOR", "LAST SIGN-IN", "ID"]
        look.show_table(columns, _rows(rows, names))


@user.command("password")
def change_password(name: Name, *, password_file: UserPassword = None, json: Json = False) -> None:
    """Set another password. That ends every session of the user, and a lock-out."""
    at_home(lambda services: _named(services, name))  # who is unknown is told before anybody types a password
    password = _password(password_file)
    row = _changed(name, lambda services, row: services.users.set_password(row.id, password))
    _tell(row, "has another password", {"sessions": "ended"}, as_json=json)


@user.command()
def disable(name: Name, *, json: Json = False) -> None:
    """Let a user in no more: sessions end, and tokens of the user are refused."""
    row = _changed(name, lambda services, row: services.users.change(row.id, {"enabled": False}))
    _tell(row, "is disabled", {"role": row.role.value}, as_json=json)


@user.command()
def enable(name: Name, *, json: Json = False) -> None:
    """Let a user in again."""
    row = _changed(name, lambda services, row: services.users.change(row.id, {"enabled": True}))
    _tell(row, "is enabled", {"role": row.role.value}, as_json=json)


@user.command()
def delete(name: Name, *, yes: Yes = False, json: Json = False) -> None:
    """Remove a user, with all sessions and tokens."""
    row = at_home(lambda services: _named(services, name))
    confirmed(f"delete the user {row.name}, with all sessions and tokens?", yes=yes)
    at_home(lambda services: services.users.delete(row.id))
    _tell(row, "is deleted", {"role": row.role.value}, as_json=json)


@user.command()
def unlock(name: Name, *, json: Json = False) -> None:
    """End the lock-out of a user after failed sign-ins."""
    row = _changed(name, lambda services, row: services.users.unlock(row.id))
    _tell(row, "may try again", {"role": row.role.value}, as_json=json)


@user.command("totp-reset")
def reset_totp(name: Name, *, yes: Yes = False, json: Json = False) -> None:
    """End the second factor of a user who has lost it; the password alone signs in then."""
    row = at_home(lambda services: _named(services, name))
    confirmed(f"let {row.name} sign in without a second factor?", yes=yes)
    row = at_home(lambda services: services.users.disable_totp(row.id))
    _tell(row, "has no second factor any more", {"role": row.role.value}, as_json=json)


def _changed(name: str, change: Callable[[Services, User], Awaitable[User]]) -> User:
    async def work(services: Services) -> User:
        return await change(services, await _named(services, name))

    return at_home(work)


async def _named(services: Services, name: str) -> User:
    from dataguardian.service.access.names import name_of

    wanted = name_of(name)
    for row in await every(services.users.page):
        if row.name == wanted:
            return row
    raise NotFoundError(f"there is no user {name!r}", hint="`dataguardian user list` shows who there is")


def _password(file: Path | None) -> SecretStr:
    """Returns the password of a file, of standard input, or as it is typed twice without an echo. Raises UsageError."""
    if file is None and interactive():
        return _typed()
    if file is not None and str(file) != STDIN:
        password = password_from(file)
        assert password is not None  # noqa: S101 -- a file was given
        return password
    return _of_stdin()


def _of_stdin() -> SecretStr:
    from pydantic import SecretStr

    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise UsageError(
            "there is no password on standard input", hint="its first line is the password; or give --password-file"
        )
    return SecretStr(line)


def _typed() -> SecretStr:
    from pydantic import SecretStr

    try:
        password = getpass.getpass("password: ")
        again = getpass.getpass("once more: ")
    except (EOFError, KeyboardInterrupt) as error:
        raise CancelledError from error
    if password != again:
        raise UsageError("these are two different passwords", hint="try again")
    return SecretStr(password)


def _tell(row: User, what: str, facts: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        from dataguardian.api.schemas.access import UserOut

        output.show_json(UserOut.of(row).model_dump(mode="json"))
    else:
        output.show_fields(f"user {row.name} {what}", {**facts, "id": row.id})


def _rows(rows: list[User], names: dict[str, str]) -> list[list[Any]]:
    ids = look.short_ids(str(row.id) for row in rows)
    return [
        [
            row.name,
            row.role.value,
            limit_text(row.datasource_ids, names),
            look.state(_state(row)),
            "yes" if row.totp_confirmed else "no",
            look.when(iso(row.last_sign_in_at)),
            ids[str(row.id)],
        ]
        for row in rows
    ]


def _state(row: User) -> str:
    if not row.enabled:
        return "disabled"
    locked = row.locked_until is not None and row.locked_until > SystemClock().now()
    return "locked" if locked else "enabled"
