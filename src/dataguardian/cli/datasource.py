"""`dataguardian datasource`: what is backed up."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dataguardian.cli import look, output
from dataguardian.cli.client import Document, ServiceUrl, connect
from dataguardian.cli.configs import (
    Config,
    ConfigFile,
    SecretFile,
    TypeName,
    Unset,
    address_config,
    given_fields,
    new_config,
    show_config,
    with_password,
)
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.groups import Yes, confirmed, group
from dataguardian.cli.options import Json
from dataguardian.cli.probes import show_probe
from dataguardian.cli.things import DATASOURCE, named
from dataguardian.domain.errors import UsageError

datasource = group("What is backed up: databases and folders.")

COLUMNS = ("NAME", "TYPE", "WHERE", "STATUS", "CHECKED", "PRODUCTION", "TAGS", "ID")

Name = Annotated[str, typer.Argument(metavar="DATASOURCE", help="Its name, or its id.")]
Address = Annotated[
    str | None,
    typer.Argument(metavar="URL", help="As for `dataguardian backup`: postgresql://user@host/db and others."),
]
Tag = Annotated[list[str] | None, typer.Option(metavar="TAG", help="A label. May be repeated.")]
Enabled = Annotated[
    bool | None, typer.Option("--enable/--disable", help="Whether it is checked and backed up.", show_default=False)
]
Production = Annotated[
    bool | None,
    typer.Option(
        "--production/--no-production",
        help="Whether only administrators may restore into it; so it is unless said otherwise.",
        show_default=False,
    ),
]


@datasource.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    address: Address = None,
    *,
    type_name: TypeName = None,
    config: Config = None,
    config_file: ConfigFile = None,
    password_file: SecretFile = None,
    tag: Tag = None,
    enabled: Enabled = None,
    production: Production = None,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Add a datasource."""
    from dataguardian.engines.registry import ENGINES

    kind, fields = new_config(ENGINES, address, type_name, given_fields(config, config_file))
    fields = with_password(ENGINES, kind, fields, password_file, from_environment=True)
    flags = {"enabled": enabled is not False, "production": production is not False}
    body = {"name": name, "type": kind, "connection_config": fields, "tags": tag or [], **flags}
    with connect(url, token_file) as client:
        made = client.post(DATASOURCE.path, body)
    _tell(made, "is added", as_json=json)
    if not json:
        output.show_fields("next", {"test": f"dataguardian datasource test {made['name']}"}, style="bold")


@datasource.command("list")
def list_(*, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """List the datasources."""
    with connect(url, token_file) as client:
        found = client.whole(DATASOURCE.path)
    if json:
        output.show_json(found)
    elif not found["data"]:
        output.show("no datasources yet: dataguardian datasource add NAME URL")
    else:
        look.show_table(list(COLUMNS), _rows(found["data"]))


@datasource.command()
def show(name: Name, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Show a datasource; its secrets are masked."""
    with connect(url, token_file) as client:
        row = named(client, DATASOURCE, name)
    if json:
        output.show_json(row)
    else:
        _show(row)


@datasource.command()
def edit(
    name: Name,
    address: Address = None,
    *,
    rename: Annotated[str | None, typer.Option("--name", metavar="NEW", help="Another name.")] = None,
    config: Config = None,
    config_file: ConfigFile = None,
    unset: Unset = None,
    password_file: SecretFile = None,
    tag: Tag = None,
    enabled: Enabled = None,
    production: Production = None,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Change what is given, and nothing else."""
    from dataguardian.engines.registry import ENGINES

    with connect(url, token_file) as client:
        row = named(client, DATASOURCE, name)
        fields = _address_fields(row, address) | given_fields(config, config_file, unset)
        fields = with_password(ENGINES, row["type"], fields, password_file, from_environment=False)
        flags = {"enabled": enabled, "production": production}
        sent = {"name": rename, "tags": tag, **flags, "connection_config": fields or None}
        body = {key: value for key, value in sent.items() if value is not None}
        if not body:
            raise UsageError("nothing to change was given", hint="dataguardian datasource edit --help")
        changed = client.put(DATASOURCE.of(row["id"]), body)
    _tell(changed, "is changed", as_json=json)


@datasource.command()
def remove(
    name: Name, *, yes: Yes = False, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False
) -> None:
    """Remove a datasource that nothing uses any more."""
    with connect(url, token_file) as client:
        row = named(client, DATASOURCE, name)
        confirmed(f"remove the datasource {row['name']}?", yes=yes)
        client.delete(DATASOURCE.of(row["id"]))
    _tell(row, "is removed", as_json=json)


@datasource.command("test")
def probe(name: Name, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> int:
    """Connect to a datasource now."""
    with connect(url, token_file) as client:
        row = named(client, DATASOURCE, name)
        found = client.post(DATASOURCE.of(row["id"]) + "/test")
    return show_probe(row["name"], found, as_json=json)


def _address_fields(row: Document, address: str | None) -> dict[str, Any]:
    from dataguardian.engines.registry import ENGINES

    if address is None:
        return {}
    kind, fields = address_config(ENGINES, address)
    if kind != row["type"]:
        raise UsageError(
            f"{row['name']} is of type {row['type']}, and that is the address of a {kind}",
            hint="remove it and add another one",
        )
    return fields


def _tell(row: Document, what: str, *, as_json: bool) -> None:
    if as_json:
        output.show_json(row)
    else:
        output.show_fields(f"datasource {row['name']} {what}", {"type": row["type"], "id": row["id"]})


def _rows(rows: list[Document]) -> list[list[Any]]:
    ids = look.short_ids(row["id"] for row in rows)
    return [
        [
            row["name"],
            row["type"],
            place_of(row["connection_config"]),
            look.state(row["status"] if row["enabled"] else "disabled"),
            look.when(row["last_health_check_at"]),
            "yes" if row["production"] else "no",
            ", ".join(row["tags"]),
            ids[row["id"]],
        ]
        for row in rows
    ]


def place_of(config: dict[str, Any]) -> str:
    """Returns where a datasource is, in a few words: a path, or host and database."""
    path = config.get("file_path") or config.get("source_path")
    if path:
        return str(path)
    host = config.get("socket") or config.get("host") or "localhost"
    port = f":{config['port']}" if config.get("port") else ""
    database = f"/{config['database']}" if config.get("database") else ""
    return f"{host}{port}{database}"


def _show(row: Document) -> None:
    outage = {"outage": f"since {look.moment(row['outage_since'])}"} if row["outage_since"] else {}
    output.show_fields(
        f"datasource {row['name']}",
        {
            "id": row["id"],
            "type": row["type"],
            "enabled": "yes" if row["enabled"] else "no",
            "production": "yes: only administrators restore into it" if row["production"] else "no",
            "status": row["status"],
            "checked": look.moment(row["last_health_check_at"]),
            **outage,
            "tags": ", ".join(row["tags"]) or look.NOTHING,
            "created": look.moment(row["created_at"]),
            "changed": look.moment(row["updated_at"]),
        }
        | show_config(row["connection_config"]),
        style="bold",
    )
