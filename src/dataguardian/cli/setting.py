"""`dataguardian setting`: what people may change while the service runs."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from dataguardian.cli import look, output
from dataguardian.cli.client import Document, ServiceUrl, connect
from dataguardian.cli.configs import Config, ConfigFile, Unset, given_fields
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.groups import group
from dataguardian.cli.options import Json
from dataguardian.domain.errors import UsageError

setting = group("Settings of the running service: cleanup, the weekly sample, notifications, pruning.")

PATH = "/api/system/settings"

Key = Annotated[str, typer.Argument(metavar="KEY", help="Such as cleanup, scrub, notifications, pruning.")]


@setting.command("list")
def list_(*, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """List the settings."""
    with connect(url, token_file) as client:
        found = client.get(PATH)
    if json:
        output.show_json(found)
        return
    rows = [[row["key"], look.when(row["updated_at"]), row["description"]] for row in found["data"]]
    look.show_table(["SETTING", "CHANGED", ""], rows)


@setting.command()
def show(key: Key, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Show a setting with its defaults; secrets are masked."""
    with connect(url, token_file) as client:
        _show(client.get(_path(key)), as_json=json)


@setting.command()
def edit(
    key: Key,
    *,
    config: Config = None,
    config_file: ConfigFile = None,
    unset: Unset = None,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Change fields of a setting; the others stay. --unset brings a field's default back."""
    fields = given_fields(config, config_file, unset)
    if not fields:
        raise UsageError("nothing to change", hint="give --config KEY=VALUE, --config-file or --unset")
    with connect(url, token_file) as client:
        _show(client.put(_path(key), {"value": fields}), as_json=json)


def _path(key: str) -> str:
    return f"{PATH}/{quote(key, safe='')}"


def _show(row: Document, *, as_json: bool) -> None:
    if as_json:
        output.show_json(row)
        return
    facts = {name: _text(value) for name, value in row["value"].items()}
    changed = {"(changed)": look.moment(row["updated_at"])} if row["updated_at"] else {}
    output.show_fields(f"{row['key']}: {row['description']}", facts | changed or {"value": "empty"}, style="bold")


def _text(value: Any) -> str:  # noqa: ANN401 -- any JSON
    import json

    return value if isinstance(value, str) else json.dumps(value)
