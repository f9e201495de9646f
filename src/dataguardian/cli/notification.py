"""`dataguardian notification`: what the service had to say, and tests of the channels by which it says it."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from dataguardian.cli import look, output
from dataguardian.cli.client import Document, ServiceUrl, connect
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.groups import group
from dataguardian.cli.options import Json
from dataguardian.cli.things import NOTIFICATION, by_id
from dataguardian.domain.errors import NotifierError, UsageError

notification = group("What the service had to say.")

Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")]


@notification.command("list")
def list_(
    *,
    unread: Annotated[bool, typer.Option("--unread", help="Only what nobody has read.")] = False,
    severity: Annotated[
        str | None, typer.Option(metavar="[info|warning|critical]", help="Only of this severity.")
    ] = None,
    page: Annotated[int, typer.Option(min=1, help="Which page.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many on a page.")] = 20,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """List notifications, newest first."""
    with connect(url, token_file) as client:
        found = client.get(NOTIFICATION.path, page=page, limit=limit, unread=unread or None, severity=severity)
    if json:
        output.show_json(found)
    elif not found["data"]:
        output.show("no unread notifications" if unread else "no notifications")
    else:
        look.show_table(["ID", "SEVERITY", "WHEN", "TITLE", ""], _rows(found["data"]))


@notification.command()
def show(notification_id: Id, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Show a notification."""
    with connect(url, token_file) as client:
        row = by_id(client, NOTIFICATION, notification_id)
    if json:
        output.show_json(row)
        return
    facts = {
        "id": row["id"],
        "type": row["type"],
        "severity": row["severity"],
        "about": row["entity_type"] + (f" {row['entity_id']}" if row["entity_id"] else ""),
        "created": look.moment(row["created_at"]),
        "read": look.moment(row["read_at"]),
    }
    output.show_fields(
        row["title"], facts | {f"  {key}": value for key, value in row["metadata"].items()}, style="bold"
    )
    output.show("", output.visible(row["message"]))


@notification.command()
def read(
    notification_id: Annotated[str | None, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every unread one.")] = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Mark a notification, or all of them, as read."""
    if (notification_id is None) != everything:
        raise UsageError("give the id of a notification, or --all")
    with connect(url, token_file) as client:
        if notification_id is None:
            told = client.post(NOTIFICATION.path + "/read-all")
            words = f"{told['marked']} notifications are marked as read"
        else:
            row = by_id(client, NOTIFICATION, notification_id)
            told = client.post(NOTIFICATION.of(row["id"]) + "/read")
            words = f"read: {told['title']}"
    if json:
        output.show_json(told)
    else:
        output.show(output.visible(words))


@notification.command("test")
def probe(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="Its name in the notification settings.")],
    *,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> int:
    """Send a test message by a channel now."""
    with connect(url, token_file) as client:
        told = client.post(f"{NOTIFICATION.path}/channels/{quote(channel, safe='')}/test")
    good = told["status"] == "sent"
    if json:
        output.show_json(told)
    else:
        title = f"{channel} took the message" if good else f"{channel} did NOT take the message"
        output.show_fields(title, {"message": told["message"]}, style="bold green" if good else "bold red")
    return 0 if good else NotifierError.exit_code


def _rows(rows: list[Document]) -> list[list[Any]]:
    ids = look.short_ids(row["id"] for row in rows)
    return [
        [
            ids[row["id"]],
            look.state(row["severity"]),
            look.when(row["created_at"]),
            row["title"],
            "" if row["read_at"] else "unread",
        ]
        for row in rows
    ]
