"""`dataguardian db`: the catalogue's revision. The service brings it up by itself when it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from dataguardian.cli import output
from dataguardian.cli.options import Json
from dataguardian.domain.errors import UsageError

db = typer.Typer(
    help="The catalogue, which is the service's own database: DATABASE_URL, or the one in DATAGUARDIAN_HOME.",
    no_args_is_help=True,
)


@db.command()
def current(*, json: Json = False) -> None:
    """Show which revision the catalogue has, and which one this program wants."""
    from dataguardian.db import migrate
    from dataguardian.settings import Settings

    found, wanted = migrate.current(Settings.from_environment().catalogue_url), migrate.revisions()[-1]
    if json:
        output.show_json({"revision": found, "head": wanted, "up_to_date": found == wanted})
    else:
        output.show_fields("catalogue", {"revision": found or "none yet", "wanted": wanted})


@db.command()
def upgrade(revision: Annotated[str, typer.Argument(help="Up to which one.")] = "head", *, json: Json = False) -> None:
    """Bring the catalogue up to a revision; the newest, if none is named."""
    from dataguardian.db import migrate

    with _catalogue() as url:
        before = migrate.current(url)
        migrate.upgrade(url, revision)
        _tell(before, migrate.current(url), as_json=json)


@db.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="Down to which one; `base` removes every table.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Lose what only newer revisions can hold.")] = False,
    json: Json = False,
) -> None:
    """Bring the catalogue down to a revision, for an older release of this program."""
    from dataguardian.db import migrate

    if not yes:
        raise UsageError(
            "a downgrade loses what only newer revisions can hold, and `base` the whole catalogue",
            hint="back up the catalogue, then say it again with --yes",
        )
    with _catalogue() as url:
        before = migrate.current(url)
        migrate.downgrade(url, revision)
        _tell(before, migrate.current(url), as_json=json)


@contextmanager
def _catalogue() -> Iterator[str]:
    """Yields the catalogue's address. The one in the home directory is changed by nobody while a service runs on it."""
    from dataguardian.service.home import Home
    from dataguardian.settings import Settings

    settings = Settings.from_environment()
    if settings.database_url is not None:
        yield settings.database_url
        return
    with Home(settings.home):
        yield settings.catalogue_url


def _tell(before: str | None, after: str | None, *, as_json: bool) -> None:
    if as_json:
        output.show_json({"before": before, "revision": after})
    else:
        output.show(f"catalogue: {before or 'none'} -> {after or 'none'}" if before != after else f"catalogue: {after}")
