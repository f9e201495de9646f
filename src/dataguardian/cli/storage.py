"""`dataguardian storage`: where backups go."""

from __future__ import annotations

from time import monotonic
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
    given_fields,
    new_config,
    show_config,
    with_password,
)
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.groups import Yes, confirmed, group
from dataguardian.cli.options import Json
from dataguardian.cli.probes import show_probe
from dataguardian.cli.things import STORAGE, named
from dataguardian.domain.errors import UsageError

storage = group("Where backups go.")

Name = Annotated[str, typer.Argument(metavar="STORAGE", help="Its name, or its id.")]
Address = Annotated[
    str | None, typer.Argument(metavar="URL", help="As for `dataguardian backup`: file:///abs/dir and others.")
]
Default = Annotated[bool, typer.Option("--default", help="Jobs without a storage location take this one.")]

_GB = 10**9


@storage.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    address: Address = None,
    *,
    type_name: TypeName = None,
    config: Config = None,
    config_file: ConfigFile = None,
    password_file: SecretFile = None,
    default: Default = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Add a storage location."""
    from dataguardian.storage.registry import STORAGES

    kind, fields = new_config(STORAGES, address, type_name, given_fields(config, config_file))
    fields = with_password(STORAGES, kind, fields, password_file, from_environment=True)
    with connect(url, token_file) as client:
        made = client.post(STORAGE.path, {"name": name, "type": kind, "config": fields, "is_default": default})
    _tell(made, "is added", as_json=json)
    if not json:
        output.show_fields("next", {"test": f"dataguardian storage test {made['name']}"}, style="bold")


@storage.command("list")
def list_(*, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """List the storage locations."""
    with connect(url, token_file) as client:
        found = client.whole(STORAGE.path)
    if json:
        output.show_json(found)
    elif not found["data"]:
        output.show("no storage locations yet: dataguardian storage add NAME URL")
    else:
        columns = ["NAME", "TYPE", "WHERE", "STATUS", "FREE", "CHECKED", "DEFAULT", "ID"]
        look.show_table(columns, _rows(found["data"]), right=["FREE"])


@storage.command()
def show(name: Name, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Show a storage location; its secrets are masked."""
    with connect(url, token_file) as client:
        row = named(client, STORAGE, name)
    if json:
        output.show_json(row)
    else:
        _show(row)


@storage.command()
def edit(
    name: Name,
    *,
    rename: Annotated[str | None, typer.Option("--name", metavar="NEW", help="Another name.")] = None,
    config: Config = None,
    config_file: ConfigFile = None,
    unset: Unset = None,
    password_file: SecretFile = None,
    default: Default = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Change what is given, and nothing else."""
    from dataguardian.storage.registry import STORAGES

    with connect(url, token_file) as client:
        row = named(client, STORAGE, name)
        fields = given_fields(config, config_file, unset)
        fields = with_password(STORAGES, row["type"], fields, password_file, from_environment=False)
        sent = {"name": rename, "config": fields or None, "is_default": default or None}
        body = {key: value for key, value in sent.items() if value is not None}
        if not body:
            raise UsageError("nothing to change was given", hint="dataguardian storage edit --help")
        changed = client.put(STORAGE.of(row["id"]), body)
    _tell(changed, "is changed", as_json=json)


@storage.command()
def remove(
    name: Name, *, yes: Yes = False, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False
) -> None:
    """Remove a storage location that nothing uses any more. What lies in it stays."""
    with connect(url, token_file) as client:
        row = named(client, STORAGE, name)
        confirmed(f"remove the storage location {row['name']}?", yes=yes)
        client.delete(STORAGE.of(row["id"]))
    _tell(row, "is removed", as_json=json)


@storage.command()
def check(
    address: Annotated[str, typer.Argument(metavar="URL", help="As for `dataguardian backup`: file:///abs/dir …")],
    *,
    json: Json = False,
) -> None:
    """Prove put, get, list and delete with a small object, from this machine and without the service."""
    from dataguardian import bootstrap
    from dataguardian.cli.signals import STOP

    location = bootstrap.open_storage(address, sleep=STOP.sleep)
    began = monotonic()
    location.storage.check()
    took_ms = (monotonic() - began) * 1000
    free_bytes = location.storage.free_space()
    if json:
        output.show_json({"storage": location.address, "status": "ok", "took_ms": took_ms, "free_bytes": free_bytes})
    else:
        facts = {"proven": "put, get, list, delete", "took": f"{took_ms:.0f} ms", "free": look.size(free_bytes)}
        output.show_fields(f"{location.address} works", facts, style="bold green")


@storage.command("test")
def probe(name: Name, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> int:
    """Put, read, list and delete a small object."""
    with connect(url, token_file) as client:
        row = named(client, STORAGE, name)
        found = client.post(STORAGE.of(row["id"]) + "/test")
    return show_probe(row["name"], found, as_json=json)


def _tell(row: Document, what: str, *, as_json: bool) -> None:
    if as_json:
        output.show_json(row)
    else:
        output.show_fields(f"storage location {row['name']} {what}", {"type": row["type"], "id": row["id"]})


def _rows(rows: list[Document]) -> list[list[Any]]:
    ids = look.short_ids(row["id"] for row in rows)
    return [
        [
            row["name"],
            row["type"],
            place_of(row["config"]),
            look.state(row["status"]),
            _free(row),
            look.when(row["last_health_check_at"]),
            "default" if row["is_default"] else "",
            ids[row["id"]],
        ]
        for row in rows
    ]


def place_of(config: dict[str, Any]) -> str:
    """Returns where a storage is, in a few words: its host, never who signs in there, and the bucket or folder."""
    if config.get("remote"):
        return f"{config['remote']}:{config.get('path') or ''}"
    bucket = config.get("bucket") or config.get("bucket_name") or config.get("bucket_id")
    inside = [config.get("prefix")] if bucket else [config.get("remote_path") or config.get("path")]
    places = [str(place) for place in (_host_of(config), bucket, *inside) if place]
    return "/".join([places[0], *(place.lstrip("/") for place in places[1:])]) if places else look.NOTHING


def _host_of(config: dict[str, Any]) -> str:
    """Returns `nas.example.org:2222`, or what an endpoint says beside scheme, account and path."""
    host = str(config.get("endpoint") or config.get("host") or "")
    host = host.partition("://")[2] or host
    port = f":{config['port']}" if host and config.get("host") and config.get("port") else ""
    return host.rpartition("@")[2].partition("/")[0] + port


def _free(row: Document) -> str:
    free_gb = row["available_space_gb"]
    return look.size(None if free_gb is None else free_gb * _GB)


def _show(row: Document) -> None:
    outage = {"outage": f"since {look.moment(row['outage_since'])}"} if row["outage_since"] else {}
    output.show_fields(
        f"storage location {row['name']}",
        {
            "id": row["id"],
            "type": row["type"],
            "default": "yes" if row["is_default"] else "no",
            "status": row["status"],
            "free": _free(row),
            "checked": look.moment(row["last_health_check_at"]),
            **outage,
            "created": look.moment(row["created_at"]),
            "changed": look.moment(row["updated_at"]),
        }
        | show_config(row["config"]),
        style="bold",
    )
