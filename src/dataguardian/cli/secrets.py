"""`dataguardian secrets`: the key that stored secrets are sealed with. On the machine that holds the home."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataguardian.cli import look, output
from dataguardian.cli.options import Json
from dataguardian.domain.errors import UsageError

if TYPE_CHECKING:
    from dataguardian.bootstrap.secrets import State

secrets = typer.Typer(
    help="The key that seals passwords and keys in the catalogue, on the machine that holds DATAGUARDIAN_HOME.",
    no_args_is_help=True,
)


@secrets.command()
def status(*, json: Json = False) -> None:
    """Show the key, what it cannot open, and backups of the catalogue that hold secrets in clear."""
    import asyncio

    from dataguardian.bootstrap.secrets import secrets_state
    from dataguardian.settings import Settings

    state = asyncio.run(secrets_state(Settings.from_environment()))
    if json:
        output.show_json(asdict(state))
        return
    sealed = ", ".join(f"{count} with {key_id}" for key_id, count in state.sealed.items()) or "none yet"
    own = "" if state.own_key_id == state.key_id else f" (this one is {state.own_key_id})"
    output.show_fields("secrets", {"key": state.key_id + own, "comes from": state.source, "sealed": sealed})
    _show_troubles(state)


@secrets.command()
def rotate(
    *,
    new_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The new key, which is made when FILE is not there; else it is made anew."),
    ] = None,
    json: Json = False,
) -> None:
    """Seal everything with a new key. Stop the service first: the home must be free."""
    import asyncio

    from dataguardian.bootstrap.secrets import rotate_secrets
    from dataguardian.settings import Settings

    settings = Settings.from_environment()
    rotated = asyncio.run(rotate_secrets(settings, new_key_file.absolute() if new_key_file else None))
    if json:
        output.show_json(asdict(rotated))
        return
    if rotated.old_key_id == rotated.new_key_id:
        output.show(f"the catalogue is sealed with the key {rotated.new_key_id} in {rotated.key_file} already")
    else:
        output.show(
            f"{rotated.rows} rows are sealed with the key {rotated.new_key_id} now, which lies in {rotated.key_file}"
        )
    if settings.secret_key or settings.secret_key_file:
        name = "DATAGUARDIAN_SECRET_KEY" if settings.secret_key else "DATAGUARDIAN_SECRET_KEY_FILE"
        output.warn(
            f"give it to every service with {name} before you start them: with the old one they refuse to start"
        )
    old = "the old key" if rotated.old_key_id == rotated.new_key_id else f"the old key {rotated.old_key_id}"
    output.note(f"backups of the catalogue that exist already open with {old} only")


@secrets.command()
def reset(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Give up what only the lost key can open.")] = False,
    json: Json = False,
) -> None:
    """Use this home's key from now on, because the one that the catalogue was sealed with is lost for ever."""
    import asyncio

    from dataguardian.bootstrap.secrets import reset_secrets
    from dataguardian.settings import Settings

    if not yes:
        raise UsageError(
            "what only the lost key can open must be entered again afterwards",
            hint="put the key back if you can; else say it again with --yes",
        )
    key_id = asyncio.run(reset_secrets(Settings.from_environment()))
    if json:
        output.show_json({"key_id": key_id})
        return
    output.show(f"the key {key_id} seals secrets from now on; `dataguardian secrets status` shows what must be entered")


def _show_troubles(state: State) -> None:
    if state.lost:
        output.warn(f"{len(state.lost)} secrets cannot be opened: put their key back, or enter them again")
        rows: list[list[Any]] = [
            [lost.thing, lost.name, lost.field, lost.key_id or look.NOTHING] for lost in state.lost
        ]
        look.show_table(["THING", "NAME", "SECRET", "KEY"], rows)
    if state.exposed:
        output.warn(f"{len(state.exposed)} backups of the catalogue hold secrets in clear: delete them")
        rows = [
            [entry.started_at, entry.storage, entry.path, entry.execution_id or look.NOTHING] for entry in state.exposed
        ]
        look.show_table(["BEGAN", "STORAGE", "DIRECTORY", "EXECUTION"], rows)
