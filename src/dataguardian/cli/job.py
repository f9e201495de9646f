"""`dataguardian job`: what is backed up to where, when, and for how long it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from dataguardian.cli import look, output
from dataguardian.cli.client import Client, Document, ServiceUrl, connect
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.execution import show_outcome
from dataguardian.cli.groups import Yes, confirmed, group
from dataguardian.cli.keyoptions import NewPassphraseFile, RecipientsFile, encryption_from
from dataguardian.cli.options import BandwidthLimit, Json
from dataguardian.cli.things import DATASOURCE, EXECUTION, JOB, STORAGE, named, names
from dataguardian.cli.waiting import wait_for
from dataguardian.domain.errors import UsageError
from dataguardian.domain.sizes import MIB, parse_size
from dataguardian.domain.states import Strategy

job = group("Backup jobs: what is backed up to where, when, and for how long it is kept.")

DEFAULT_STORAGE = "default"

Name = Annotated[str, typer.Argument(metavar="JOB", help="Its name, or its id.")]
OfDatasource = Annotated[str | None, typer.Option("--datasource", metavar="DATASOURCE", help="What is backed up.")]
OfStorage = Annotated[
    str | None,
    typer.Option("--storage", metavar="STORAGE", help="Where to; `default` for the one that is the default then."),
]
Cron = Annotated[
    str | None,
    typer.Option(metavar="CRON", help="When, such as '0 3 * * *' or @daily; '' for only when it is started."),
]
Zone = Annotated[
    str | None,
    typer.Option(metavar="ZONE", help="The schedule's time zone, such as Europe/Lisbon; else the service's."),
]
Daily = Annotated[
    int | None, typer.Option("--keep-daily", metavar="DAYS", min=0, help="Keep all backups of so many days (7).")
]
Weekly = Annotated[
    int | None, typer.Option("--keep-weekly", metavar="WEEKS", min=0, help="Keep one a week for so long (4).")
]
Monthly = Annotated[
    int | None, typer.Option("--keep-monthly", metavar="MONTHS", min=0, help="Keep one a month for so long (12).")
]
Last = Annotated[int | None, typer.Option("--keep-last", metavar="N", min=1, help="Keep at least the newest N (1).")]
AutoDelete = Annotated[
    bool | None,
    typer.Option("--auto-delete/--no-auto-delete", help="Whether retention removes backups.", show_default=False),
]
Compression = Annotated[
    str | None, typer.Option(metavar="[zstd|gzip|lz4|none]", help="How parts are compressed (zstd).")
]
Level = Annotated[int | None, typer.Option(help="Compression level, as for `dataguardian backup`.")]
PartSize = Annotated[str | None, typer.Option(metavar="SIZE", help="Raw bytes per stored part, whole MiB (16MiB).")]
Include = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only what matches (files). May be repeated.")]
Exclude = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Not what matches (files). May be repeated.")]
Streams = Annotated[
    list[str] | None,
    typer.Option(
        "--stream", metavar="DATABASE", help="Only this database of a whole server. May be repeated; '' for all."
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout-minutes", metavar="MINUTES", min=0, help="End a run that takes longer; 0: never."),
]
Stall = Annotated[
    float | None,
    typer.Option(
        "--stall-minutes", metavar="MINUTES", min=0, help="End a run without progress for so long (60); 0: never."
    ),
]
Also = Annotated[
    list[str] | None,
    typer.Option("--also", metavar="STORAGE", help="A further storage location. May be repeated; '' for none."),
]
OfStrategy = Annotated[
    Strategy | None,
    typer.Option(
        "--strategy",
        help="With --also: every backup to all of them (replicate), or to the first one that takes it (fallback).",
        show_default=False,
    ),
]
Lag = Annotated[
    float | None,
    typer.Option(
        "--lag-seconds", metavar="SECONDS", min=0.1, help="Leave a storage behind that lags so much behind others (60)."
    ),
]
Enabled = Annotated[
    bool | None, typer.Option("--enable/--disable", help="Whether its schedule counts.", show_default=False)
]


OfRecipients = Annotated[
    list[str] | None,
    typer.Option(
        "--recipient",
        metavar="KEY",
        help="Encrypt for this public key: age1…, 'ssh-ed25519 …' or 'ssh-rsa …'. May be repeated; '' for none.",
    ),
]


@job.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    *,
    datasource: Annotated[str, typer.Option(metavar="DATASOURCE", help="What is backed up.")],
    storage: OfStorage = None,
    cron: Cron = None,
    timezone: Zone = None,
    keep_daily: Daily = None,
    keep_weekly: Weekly = None,
    keep_monthly: Monthly = None,
    keep_last: Last = None,
    auto_delete: AutoDelete = None,
    compression: Compression = None,
    level: Level = None,
    part_size: PartSize = None,
    include: Include = None,
    exclude: Exclude = None,
    stream: Streams = None,
    timeout_minutes: Timeout = None,
    stall_minutes: Stall = None,
    bandwidth_limit: BandwidthLimit = None,
    also: Also = None,
    strategy: OfStrategy = None,
    lag_seconds: Lag = None,
    recipient: OfRecipients = None,
    recipients_file: RecipientsFile = None,
    passphrase_file: NewPassphraseFile = None,
    enabled: Enabled = None,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Add a backup job."""
    policy = _policy(
        keep_daily=keep_daily,
        keep_weekly=keep_weekly,
        keep_monthly=keep_monthly,
        keep_last=keep_last,
        auto_delete=auto_delete,
    )
    options = _options(
        compression=compression,
        level=level,
        part_size=part_size,
        include=include,
        exclude=exclude,
        stream=stream,
        timeout_minutes=timeout_minutes,
        stall_minutes=stall_minutes,
        bandwidth_limit=bandwidth_limit,
    )
    options |= _encryption(recipient, recipients_file, passphrase_file)
    with connect(url, token_file) as client:
        options |= _targets(client, also, strategy, lag_seconds)
        body = {"name": name, "retention_policy": policy, "backup_options": options, "enabled": enabled is not False}
        body |= _parties(client, datasource, storage) | _schedule(cron, timezone)
        made = client.post(JOB.path, body)
    _tell(made, "is added", as_json=json)
    if not json:
        output.show_fields("next", {"run it now": f"dataguardian job run {made['name']} --wait"}, style="bold")


@job.command()
def edit(
    name: Name,
    *,
    rename: Annotated[str | None, typer.Option("--name", metavar="NEW", help="Another name.")] = None,
    datasource: OfDatasource = None,
    storage: OfStorage = None,
    cron: Cron = None,
    timezone: Zone = None,
    keep_daily: Daily = None,
    keep_weekly: Weekly = None,
    keep_monthly: Monthly = None,
    keep_last: Last = None,
    auto_delete: AutoDelete = None,
    compression: Compression = None,
    level: Level = None,
    part_size: PartSize = None,
    include: Include = None,
    exclude: Exclude = None,
    stream: Streams = None,
    timeout_minutes: Timeout = None,
    stall_minutes: Stall = None,
    bandwidth_limit: BandwidthLimit = None,
    also: Also = None,
    strategy: OfStrategy = None,
    lag_seconds: Lag = None,
    recipient: OfRecipients = None,
    recipients_file: RecipientsFile = None,
    passphrase_file: NewPassphraseFile = None,
    enabled: Enabled = None,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Change what is given, and nothing else. A new schedule counts from now."""
    policy = _policy(
        keep_daily=keep_daily,
        keep_weekly=keep_weekly,
        keep_monthly=keep_monthly,
        keep_last=keep_last,
        auto_delete=auto_delete,
    )
    options = _options(
        compression=compression,
        level=level,
        part_size=part_size,
        include=include,
        exclude=exclude,
        stream=stream,
        timeout_minutes=timeout_minutes,
        stall_minutes=stall_minutes,
        bandwidth_limit=bandwidth_limit,
    )
    options |= _encryption(recipient, recipients_file, passphrase_file)
    with connect(url, token_file) as client:
        options |= _targets(client, also, strategy, lag_seconds)
        row = named(client, JOB, name)
        simple = {
            "name": rename,
            "enabled": enabled,
            "retention_policy": policy or None,
            "backup_options": options or None,
        }
        body = {key: value for key, value in simple.items() if value is not None}
        body |= _parties(client, datasource, storage) | _schedule(cron, timezone)
        if not body:
            raise UsageError("nothing to change was given", hint="dataguardian job edit --help")
        changed = client.put(JOB.of(row["id"]), body)
    _tell(changed, "is changed", as_json=json)


@job.command("list")
def list_(*, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """List the backup jobs."""
    with connect(url, token_file) as client:
        found = client.whole(JOB.path)
        if json:
            output.show_json(found)
        elif not found["data"]:
            output.show("no backup jobs yet: dataguardian job add NAME --datasource DATASOURCE --cron '0 3 * * *'")
        else:
            columns = ["NAME", "DATASOURCE", "STORAGE", "SCHEDULE", "NEXT", "KEEP", "ID"]
            look.show_table(columns, _rows(found["data"], names(client, DATASOURCE), names(client, STORAGE)))


@job.command()
def show(name: Name, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Show a backup job."""
    with connect(url, token_file) as client:
        row = named(client, JOB, name)
        if json:
            output.show_json(row)
        else:
            _show(row, names(client, DATASOURCE), names(client, STORAGE))


@job.command()
def remove(
    name: Name, *, yes: Yes = False, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False
) -> None:
    """Remove a backup job that has no backups any more."""
    with connect(url, token_file) as client:
        row = named(client, JOB, name)
        confirmed(f"remove the backup job {row['name']}?", yes=yes)
        client.delete(JOB.of(row["id"]))
    _tell(row, "is removed", as_json=json)


@job.command()
def run(
    name: Name,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; the exit code tells the outcome.")] = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> int:
    """Start a backup now."""
    with connect(url, token_file) as client:
        row = named(client, JOB, name)
        started = client.post(JOB.of(row["id"]) + "/run")
        execution_id = started["execution_id"]
        if wait:
            ended = wait_for(client, EXECUTION, execution_id, "backing up", quiet=json, cumulative=True)
            return show_outcome(ended, f"backup of {row['name']}", as_json=json)
    if json:
        output.show_json(started)
    else:
        follow = {"follow": f"dataguardian execution logs {execution_id} --follow"}
        output.show_fields(f"backup of {row['name']} is queued", {"execution": execution_id, **follow})
    return 0


@job.command()
def retention(name: Name, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Show what retention would remove now, and when each other backup would go."""
    with connect(url, token_file) as client:
        row = named(client, JOB, name)
        preview = client.get(JOB.of(row["id"]) + "/retention-preview")
    if json:
        output.show_json(preview)
    elif not preview["backups"]:
        output.show(f"{output.visible(row['name'])} has no backups yet")
    else:
        columns = ["DATE", "SIZE", "WHAT BECOMES OF IT", "EXECUTION"]
        look.show_table(columns, [_retained(backup) for backup in preview["backups"]], right=["SIZE"])


def _retained(backup: Document) -> list[str]:
    return [backup["local_date"], look.size(backup["size_bytes"]), backup["explanation"], backup["execution_id"]]


def _policy(
    *,
    keep_daily: int | None,
    keep_weekly: int | None,
    keep_monthly: int | None,
    keep_last: int | None,
    auto_delete: bool | None,
) -> Document:
    given = {
        "keep_daily": keep_daily,
        "keep_weekly": keep_weekly,
        "keep_monthly": keep_monthly,
        "keep_last": keep_last,
        "auto_delete": auto_delete,
    }
    return {key: value for key, value in given.items() if value is not None}


def _options(
    *,
    compression: str | None,
    level: int | None,
    part_size: str | None,
    include: list[str] | None,
    exclude: list[str] | None,
    stream: list[str] | None,
    timeout_minutes: float | None,
    stall_minutes: float | None,
    bandwidth_limit: float | None,
) -> Document:
    given = {
        "compression": compression,
        "compression_level": level,
        "part_size_mb": None if part_size is None else _whole_mb(part_size),
        "include": include,
        "exclude": exclude,
        "streams": None if stream is None else [name for name in stream if name],
        "timeout_minutes": timeout_minutes,
        "stall_minutes": stall_minutes,
    }
    limit = {} if bandwidth_limit is None else {"bandwidth_limit_mbps": bandwidth_limit or None}
    return {key: value for key, value in given.items() if value is not None} | limit


def _targets(client: Client, also: list[str] | None, strategy: Strategy | None, lag_seconds: float | None) -> Document:
    chosen = None if also is None else [named(client, STORAGE, name)["id"] for name in also if name]
    given = {
        "storage_targets": chosen,
        "storage_strategy": strategy.value if strategy else None,
        "storage_lag_seconds": lag_seconds,
    }
    return {key: value for key, value in given.items() if value is not None}


def _encryption(recipients: list[str] | None, recipients_file: Path | None, passphrase_file: Path | None) -> Document:
    """Returns the option as the API takes it: null ends encryption, and nothing is sent when nothing was given."""
    if recipients == [""] and recipients_file is None and passphrase_file is None:
        return {"encryption": None}
    encryption = encryption_from(recipients, recipients_file, passphrase_file)
    return {} if encryption is None else {"encryption": encryption.revealed()}


def _whole_mb(text: str) -> int:
    size_bytes = parse_size(text)
    if size_bytes % MIB:
        raise UsageError(f"a job's part size is a whole number of MiB, and {text!r} is none", hint="such as 32MiB")
    return size_bytes // MIB


def _parties(client: Client, datasource: str | None, storage: str | None) -> Document:
    body: Document = {}
    if datasource is not None:
        body["datasource_id"] = named(client, DATASOURCE, datasource)["id"]
    if storage is not None:
        body["storage_location_id"] = None if storage == DEFAULT_STORAGE else named(client, STORAGE, storage)["id"]
    return body


def _schedule(cron: str | None, timezone: str | None) -> Document:
    body: Document = {} if cron is None else {"schedule_cron": cron or None}
    return body if timezone is None else body | {"schedule_timezone": timezone}


def _tell(row: Document, what: str, *, as_json: bool) -> None:
    if as_json:
        output.show_json(row)
    else:
        fields = {"schedule": schedule_of(row), "next": look.when(row["next_execution_at"]), "id": row["id"]}
        output.show_fields(f"backup job {row['name']} {what}", fields)


def schedule_of(row: Document) -> str:
    """Returns `0 3 * * * Europe/Lisbon`, or `by hand`."""
    return f"{row['schedule_cron']} {row['schedule_timezone']}" if row["schedule_cron"] else "by hand"


def next_of(row: Document) -> str:
    return look.when(row["next_execution_at"]) if row["enabled"] else "disabled"


def _keep(policy: dict[str, Any]) -> str:
    if not policy.get("auto_delete", True):
        return "everything"
    return f"{policy['keep_daily']}d {policy['keep_weekly']}w {policy['keep_monthly']}m"


def _storage_name(row: Document, storages: dict[str, str]) -> str:
    return storages.get(row["storage_location_id"], look.NOTHING) if row["storage_location_id"] else DEFAULT_STORAGE


def _storage_names(row: Document, storages: dict[str, str]) -> str:
    """Returns `nas`, `nas + offsite`, or `nas, else offsite`."""
    options = row["backup_options"]
    between = ", else " if options.get("storage_strategy") == Strategy.FALLBACK else " + "
    further = [storages.get(target, look.NOTHING) for target in options.get("storage_targets") or ()]
    return between.join([_storage_name(row, storages), *further])


def _shown_options(options: Document) -> Iterator[tuple[str, Any]]:
    """Yields what is set; what is about several storage locations only when there are some."""
    several = bool(options.get("storage_targets"))
    for key, value in options.items():
        if value not in (None, [], ()) and key != "storage_targets" and (several or not key.startswith("storage_")):
            yield (key, look.encryption(value)) if key == "encryption" else (key, value)


def _rows(rows: list[Document], sources: dict[str, str], storages: dict[str, str]) -> list[list[Any]]:
    ids = look.short_ids(row["id"] for row in rows)
    return [
        [
            row["name"],
            sources.get(row["datasource_id"], look.NOTHING),
            _storage_names(row, storages),
            schedule_of(row),
            next_of(row),
            _keep(row["retention_policy"]),
            ids[row["id"]],
        ]
        for row in rows
    ]


def _show(row: Document, sources: dict[str, str], storages: dict[str, str]) -> None:
    output.show_fields(
        f"backup job {row['name']}",
        {
            "id": row["id"],
            "datasource": sources.get(row["datasource_id"], row["datasource_id"]),
            "storage": _storage_names(row, storages),
            "schedule": schedule_of(row),
            "next": next_of(row) if not row["enabled"] else look.moment(row["next_execution_at"]),
            "created": look.moment(row["created_at"]),
            "changed": look.moment(row["updated_at"]),
        }
        | {f"  {key}": value for key, value in row["retention_policy"].items()}
        | {f"  {key}": value for key, value in _shown_options(row["backup_options"])},
        style="bold",
    )
