"""What the verbs share that work on the catalogue itself, on the machine that holds the home, and sign in nowhere."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dataguardian.cli import look, output
from dataguardian.domain.clock import to_iso
from dataguardian.domain.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from dataguardian.db.repositories.base import Page
    from dataguardian.service.services import Services

T = TypeVar("T")

PAGE = 100

RoleName = Annotated[
    str,
    typer.Option(
        "--role",
        metavar="[admin|operator|viewer]",
        help="viewer looks; operator also runs and restores, but not into production; admin may do everything.",
    ),
]
Datasource = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Only this datasource and its backups. May be repeated; not for admin."),
]


def at_home(work: Callable[[Services], Awaitable[T]]) -> T:
    """Runs `work` on the catalogue of the home, whether a service runs on it or not. Raises DataGuardianError."""
    import asyncio

    from dataguardian.bootstrap.console import at_the_console
    from dataguardian.settings import Settings

    settings = Settings.from_environment()

    is_new = settings.database_url is None and not settings.catalogue_path.exists()

    async def run() -> T:
        async with at_the_console(settings) as services:
            return await work(services)

    try:
        return asyncio.run(run())
    finally:
        if is_new and settings.catalogue_path.exists():
            output.note(f"no service has run on {settings.home} yet: start it with this DATAGUARDIAN_HOME")


def role_of(text: str) -> str:
    """Raises UsageError, with what there is."""
    from dataguardian.domain.access import Role

    known = [role.value for role in Role]
    if text not in known:
        raise UsageError(f"there is no role {text!r}", hint=f"known: {', '.join(known)}")
    return text


def iso(moment: datetime | None) -> str | None:
    return None if moment is None else to_iso(moment)


async def every(page: Callable[[int, int], Awaitable[Page[T]]]) -> list[T]:
    """Returns all rows of a list that comes in pages."""
    rows: list[T] = []
    number = 1
    while True:
        found = await page(number, PAGE)
        rows += found.data
        if number >= found.total_pages:
            return rows
        number += 1


async def datasource_ids(services: Services, names: list[str] | None) -> frozenset[uuid.UUID] | None:
    """Returns the ids of datasources that are given by name or id; None for no limit. Raises NotFoundError."""
    if not names:
        return None
    rows = await every(services.datasources.page)
    known = {str(row.id): row.id for row in rows} | {row.name: row.id for row in rows}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise NotFoundError(
            f"there is no datasource {unknown[0]!r}", hint="`dataguardian datasource list` shows what there is"
        )
    return frozenset(known[name] for name in names)


async def datasource_names(services: Services) -> dict[str, str]:
    """Returns the name of each datasource's id."""
    return {str(row.id): row.name for row in await every(services.datasources.page)}


def limit_text(ids: list[str] | None, names: dict[str, str]) -> str:
    """Returns a limit as a table shows it; what was removed since is shown by its id."""
    return "all" if ids is None else ", ".join(names.get(row_id, row_id) for row_id in ids) or look.NOTHING
