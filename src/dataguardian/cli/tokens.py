"""`dataguardian token`: what programs sign in with. Made and ended on the machine that holds the home."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
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
from dataguardian.cli.groups import Yes, confirmed, group
from dataguardian.cli.options import Json
from dataguardian.domain.clock import SystemClock
from dataguardian.domain.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from dataguardian.db.accounts import ApiToken
    from dataguardian.service.services import Services

token = group("What programs sign in with, on the machine that holds the home.")

MAX_NAME = 100
MAX_DAYS = 36_500
LOCAL_NAME = 14
"""Of a service's own token, whose name holds its home's whole id."""

_EXPIRY = re.compile(r"([0-9]{1,6})([hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@token.command()
def create(
    *,
    role: RoleName,
    name: Annotated[str, typer.Option(metavar="NAME", help="What it is for, as lists and the audit log show it.")],
    expires: Annotated[
        str | None, typer.Option(metavar="90d", help="After so many hours (h), days (d) or weeks (w); else never.")
    ] = None,
    permission: Annotated[
        list[str] | None,
        typer.Option(metavar="P", help="Only this of what the role may: view, run, … May be repeated."),
    ] = None,
    datasource: Datasource = None,
    json: Json = False,
) -> None:
    """Make a token and show it, this once. Nobody has to sign in for that, and no service has to run."""
    from dataguardian.domain.access import Role

    wanted, scope = Role(role_of(role)), _permissions(permission)
    label, lifetime = _checked_name(name), _lifetime(expires)

    async def work(services: Services) -> tuple[ApiToken, str, dict[str, str]]:
        row, secret = await services.tokens.create(
            name=label,
            role=wanted,
            permissions=scope,
            datasource_ids=await datasource_ids(services, datasource),
            expires_at=SystemClock().now() + lifetime if lifetime else None,
        )
        return row, secret, await datasource_names(services) if datasource else {}

    row, secret, names = at_home(work)
    if json:
        from dataguardian.api.schemas.access import TokenMade

        output.show_json(TokenMade.made(row, secret).model_dump(mode="json"))
        return
    output.show_fields(f"token {row.name} is made", {"token": secret, **_facts(row, names)})
    output.show(
        "", "It is shown this once. Send it as `Authorization: Bearer …`, or keep it in a file for --token-file."
    )


@token.command("list")
def list_(*, json: Json = False) -> None:
    """List the tokens. What they are is not stored: only what they begin with."""

    async def work(services: Services) -> tuple[list[ApiToken], dict[str, str]]:
        return await every(services.tokens.page), await datasource_names(services)

    rows, names = at_home(work)
    if json:
        from dataguardian.api.schemas.access import TokenOut
        from dataguardian.api.schemas.common import whole

        output.show_json(whole(rows, TokenOut.of).model_dump(mode="json"))
    elif not rows:
        output.show("no tokens yet: dataguardian token create --name NAME --role ROLE")
    else:
        columns = ["NAME", "ROLE", "SCOPE", "DATASOURCES", "STATE", "EXPIRES", "LAST USED", "BEGINS", "ID"]
        look.show_table(columns, _rows(rows, names))


@token.command()
def revoke(
    reference: Annotated[str, typer.Argument(metavar="TOKEN", help="Its name, its id, or the beginning of its id.")],
    *,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """End a token. A service that runs lets it in for three more seconds at most."""
    row = at_home(lambda services: _named(services, reference))
    if row.revoked_at is None:
        confirmed(f"revoke the token {row.name}, which begins with {row.shown_as}?", yes=yes)
        row = at_home(lambda services: services.tokens.revoke(row.id))
    if json:
        from dataguardian.api.schemas.access import TokenOut

        output.show_json(TokenOut.of(row).model_dump(mode="json"))
    else:
        output.show_fields(f"token {row.name} is revoked", {"begins": row.shown_as, "id": row.id})


async def _named(services: Services, reference: str) -> ApiToken:
    """Returns the token of that name, else of that id or beginning of one. Raises NotFoundError, UsageError."""
    rows = await every(services.tokens.page)
    living = [row for row in rows if row.name == reference and row.revoked_at is None]
    found = (
        living or [row for row in rows if row.name == reference] or [row for row in rows if _begins(row.id, reference)]
    )
    if not found:
        raise NotFoundError(f"there is no token {reference!r}", hint="`dataguardian token list` shows what there is")
    if len(found) > 1:
        ids = ", ".join(str(row.id) for row in found[:5])
        raise UsageError(f"{reference!r} may be one of {len(found)} tokens", hint=f"say which by its id: {ids}")
    return found[0]


def _begins(row_id: uuid.UUID, text: str) -> bool:
    return len(text) >= 4 and str(row_id).startswith(text.lower())  # noqa: PLR2004 -- fewer is no beginning


def _checked_name(text: str) -> str:
    name = text.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(f"a token's name is 1 to {MAX_NAME} visible characters", hint="such as --name grafana")
    return name


def _permissions(names: list[str] | None) -> frozenset[Any] | None:
    from dataguardian.domain.access import Permission

    if not names:
        return None
    known = [permission.value for permission in Permission]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"there is no permission {unknown[0]!r}", hint=f"known: {', '.join(known)}")
    return frozenset(map(Permission, names))


def _lifetime(text: str | None) -> timedelta | None:
    """Returns how long `90d`, `12h` or `2w` is. Raises UsageError."""
    if text is None:
        return None
    match = _EXPIRY.fullmatch(text.strip().lower())
    lifetime = int(match[1]) * _UNITS[match[2]] if match else timedelta()
    if not timedelta() < lifetime <= timedelta(days=MAX_DAYS):
        raise UsageError(f"--expires {text!r} is no lifetime", hint="such as 12h, 90d or 52w")
    return lifetime


def _facts(row: ApiToken, names: dict[str, str]) -> dict[str, object]:
    return {
        "role": row.role.value,
        "scope": _scope(row),
        "datasources": limit_text(row.datasource_ids, names),
        "expires": look.moment(iso(row.expires_at)) if row.expires_at else "never",
        "id": row.id,
    }


def _scope(row: ApiToken) -> str:
    return "all of it" if row.permissions is None else ", ".join(row.permissions)


def _rows(rows: list[ApiToken], names: dict[str, str]) -> list[list[Any]]:
    ids = look.short_ids(str(row.id) for row in rows)
    return [
        [
            row.name[:LOCAL_NAME] if row.is_local else row.name,
            row.role.value,
            _scope(row),
            limit_text(row.datasource_ids, names),
            look.state(_state(row)),
            look.when(iso(row.expires_at)) if row.expires_at else "never",
            look.when(iso(row.last_used_at)),
            row.shown_as,
            ids[str(row.id)],
        ]
        for row in rows
    ]


def _state(row: ApiToken) -> str:
    if row.revoked_at is not None:
        return "revoked"
    if row.expires_at is not None and row.expires_at <= SystemClock().now():
        return "expired"
    return "local" if row.is_local else "valid"
