"""`dataguardian execution`: the backups, the runs that did not become one, and what is done with a backup."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from dataguardian.cli import look, output
from dataguardian.cli.client import Client, Document, ServiceUrl, connect, exit_code_of
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.groups import Yes, ask, confirmed, group, interactive
from dataguardian.cli.options import Json, Since, Until
from dataguardian.cli.signals import stoppable
from dataguardian.cli.things import (
    DATASOURCE,
    EXECUTION,
    JOB,
    REPAIR,
    RESTORE,
    STORAGE,
    VERIFICATION,
    Noun,
    by_id,
    named,
    names,
)
from dataguardian.cli.waiting import wait_for
from dataguardian.domain.errors import CancelledError, DataGuardianError, IntegrityError, KeyNeededError, UsageError

execution = group("Backups, and runs that did not become one.")

FOLLOW_SECONDS = 1.0
LOG_PAGE = 100

_KINDS = (EXECUTION, RESTORE, VERIFICATION, REPAIR)
_ENDED_WELL = "completed"
_ACTIVE = {"queued", "running", "deleting"}

Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for its end; the exit code tells the outcome.")]
Force = Annotated[
    bool, typer.Option("--force", help="Also the newest good one of its job, or one that is not as it should be.")
]


@execution.command("list")
def list_(
    *,
    job: Annotated[str | None, typer.Option(metavar="JOB", help="Only those of a job.")] = None,
    datasource: Annotated[str | None, typer.Option(metavar="DATASOURCE", help="Only those of a datasource.")] = None,
    storage: Annotated[str | None, typer.Option(metavar="STORAGE", help="Only those in a storage location.")] = None,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="completed, failed, running, …")] = None,
    since: Since = None,
    until: Until = None,
    page: Annotated[int, typer.Option(min=1, help="Which page.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many on a page.")] = 20,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """List executions, newest first."""
    with connect(url, token_file) as client:
        filters = {
            "job_id": named(client, JOB, job)["id"] if job else None,
            "datasource_id": named(client, DATASOURCE, datasource)["id"] if datasource else None,
            "storage_location_id": named(client, STORAGE, storage)["id"] if storage else None,
            "status": status,
            "from_": since,
            "to": until,
        }
        found = client.get(EXECUTION.path, page=page, limit=limit, **filters)
        if json:
            output.show_json(found)
        else:
            _show_list(client, found)


@execution.command()
def show(execution_id: Id, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Show an execution."""
    with connect(url, token_file) as client:
        row = by_id(client, EXECUTION, execution_id)
        if json:
            output.show_json(row)
        else:
            _show(client, row)


@execution.command()
def cancel(execution_id: Id, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Stop a backup, a restore, a verification or a repair that is queued or running."""
    with connect(url, token_file) as client:
        noun, row = _any_work(client, execution_id)
        told = client.post(noun.of(row["id"]) + "/cancel")
    if json:
        output.show_json(told)
    else:
        word = "is cancelled" if told["status"] == "cancelled" else "is asked to stop, and cleans up"
        output.show_fields(f"the {noun.name} {word}", {noun.name: row["id"], "status": told["status"]})


@execution.command()
def logs(
    execution_id: Id,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the work has ended.")] = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Show the log of an execution, a restore, a verification or a repair."""
    with connect(url, token_file) as client:
        noun, row = _any_work(client, execution_id)
        if json:
            output.show_json(client.whole(noun.of(row["id"]) + "/logs"))
            return
        with stoppable("no longer following; the work goes on"):
            _print_logs(client, noun, row["id"], follow=follow)


@execution.command()
def verify(
    execution_id: Id,
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Also expand every part and read the whole dump.")] = False,
    wait: Wait = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> int:
    """Check a backup where it lies."""
    with connect(url, token_file) as client:
        row = by_id(client, EXECUTION, execution_id)
        started = client.post(EXECUTION.of(row["id"]) + "/verify", {"deep": deep})
        work_id = started["verification_id"]
        if not wait:
            _tell_started(started, "verification", work_id, as_json=json)
            return 0
        ended = wait_for(client, VERIFICATION, work_id, "verifying", quiet=json, cumulative=False)
    return _verified(ended, as_json=json)


@execution.command()
def restore(
    execution_id: Id,
    *,
    into: Annotated[
        str | None, typer.Option(metavar="DATASOURCE", help="Where to; else where it was taken of.")
    ] = None,
    confirm: Annotated[str | None, typer.Option(metavar="NAME", help="The target's name, letter by letter.")] = None,
    drop_existing: Annotated[
        bool, typer.Option("--drop-existing", help="Replace what the target holds, at the very end and atomically.")
    ] = False,
    stream: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this stream (a database). May be repeated.")
    ] = None,
    wait: Wait = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> int:
    """Restore a backup into a datasource. Until all of it has been checked, the target stays as it is."""
    with connect(url, token_file) as client:
        row = by_id(client, EXECUTION, execution_id)
        target = named(client, DATASOURCE, into) if into else client.get(DATASOURCE.of(row["datasource_id"]))
        body = {
            "confirm": confirm if confirm is not None else _typed_name(row, target, drop_existing=drop_existing),
            "target_datasource_id": target["id"],
            "drop_existing": drop_existing,
            "streams": stream or [],
        }
        started = client.post(EXECUTION.of(row["id"]) + "/restore", body)
        work_id = started["restore_id"]
        if not wait:
            _tell_started(started, "restore", work_id, as_json=json)
            return 0
        ended = wait_for(client, RESTORE, work_id, "restoring", quiet=json, cumulative=False)
    return show_outcome(ended, f"restore into {target['name']}", as_json=json)


@execution.command()
def repair(
    execution_id: Id, *, wait: Wait = False, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False
) -> int:
    """Copy a partial backup now to the storage locations that are behind; the service does it by itself, too."""
    with connect(url, token_file) as client:
        row = by_id(client, EXECUTION, execution_id)
        started = client.post(EXECUTION.of(row["id"]) + "/repair")
        if not wait:
            _tell_started(started, "repair", " ".join(started["repair_ids"]), as_json=json)
            return 0
        codes = []
        for work_id in started["repair_ids"]:
            ended = wait_for(client, REPAIR, work_id, "repairing", quiet=json, cumulative=False)
            codes.append(show_outcome(ended, "repair", as_json=json))
    return max(codes)


@execution.command()
def pin(execution_id: Id, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Keep a backup from being deleted by retention or by anybody."""
    _pin(connect(url, token_file), execution_id, "pin", "is pinned: nothing deletes it", as_json=json)


@execution.command()
def unpin(execution_id: Id, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Let retention have a backup again."""
    _pin(connect(url, token_file), execution_id, "unpin", "is no longer pinned", as_json=json)


@execution.command()
def remove(
    execution_id: Id,
    *,
    force: Force = False,
    yes: Yes = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Delete a backup: what lies in the storage, and its record."""
    with connect(url, token_file) as client:
        row = by_id(client, EXECUTION, execution_id)
        question = f"delete the {row['status']} backup of {look.moment(row['created_at'])}, {row['id']}?"
        confirmed(question, yes=yes)
        client.delete(EXECUTION.of(row["id"]), force=force or None)
    if json:
        output.show_json(row)
    else:
        output.show_fields("the backup is deleted", {"execution": row["id"]})


def show_outcome(row: Document, what: str, *, as_json: bool) -> int:
    """Prints how work ended; returns the exit code: 0 when it is completed."""
    good = row["status"] == _ENDED_WELL
    if as_json:
        output.show_json(row)
    else:
        figures = {"size": look.size(row["size_bytes"]), "duration": look.duration(row["duration_seconds"])}
        stored = {"stored": look.size(row["compressed_size_bytes"])} if row.get("compressed_size_bytes") else {}
        if good:
            output.show_fields(f"{what} is complete", {"id": row["id"], **figures, **stored, **_where(row)})
        else:
            reason = {"reason": row["error_message"]} if row["error_message"] else {}
            output.show_fields(
                f"{what} is NOT complete: {row['status']}",
                {"id": row["id"], **reason, "log": f"dataguardian execution logs {row['id']}"},
                style="bold red",
            )
    return 0 if good else exit_code_of(row["error_code"])


def _where(row: Document) -> dict[str, object]:
    return {name: row[key] for name, key in (("backup", "backup_path"), ("checksum", "checksum")) if row.get(key)}


def _verified(row: Document, *, as_json: bool) -> int:
    if row["ok"] is None and row["status"] == _ENDED_WELL:
        return _not_checked(row, as_json=as_json)
    if row["ok"] is None:
        return show_outcome(row, "verification", as_json=as_json)
    if as_json:
        output.show_json(row)
    elif row["ok"]:
        level = "deep" if row["deep"] else "stored hashes and completeness"
        output.show_fields("the backup is good", {"execution": row["execution_id"], "checked": level})
    else:
        output.show_fields("the backup is DAMAGED", {"execution": row["execution_id"]}, style="bold red")
        for error in row["errors"]:
            output.show("  - " + output.visible(error))
    return 0 if row["ok"] else IntegrityError.exit_code


def _not_checked(row: Document, *, as_json: bool) -> int:
    """An encrypted backup that the service has no key for: its stored bytes are good, and that is all."""
    if as_json:
        output.show_json(row)
    else:
        fields = {
            "execution": row["execution_id"],
            "checked": "stored hashes and completeness",
            "not checked": row["metadata"].get("not_checked", "what the parts hold"),
        }
        output.show_fields("the backup is NOT CHECKED deeply", fields, style="bold yellow")
    return KeyNeededError.exit_code


def _typed_name(row: Document, target: Document, *, drop_existing: bool) -> str:
    if not interactive():
        raise UsageError(
            f"not done without the target's name: this restores into the datasource {target['name']}",
            hint=f"add --confirm {target['name']}",
        )
    effect = "REPLACES what it holds" if drop_existing else "it must be empty"
    output.note(f"restore of {look.moment(row['created_at'])} into the datasource {target['name']}: {effect}")
    typed = ask("type the datasource's name to go on:")
    if typed != target["name"]:
        raise CancelledError("that is not its name: nothing was done")
    return typed


def _any_work(client: Client, reference: str) -> tuple[Noun, Document]:
    """Returns the execution, restore, verification or repair of that id, or beginning of one."""
    first: DataGuardianError | None = None
    for noun in _KINDS:
        try:
            return noun, by_id(client, noun, reference)
        except DataGuardianError as error:
            if getattr(error, "word", error.code) != "not_found":
                raise
            first = first or error
    assert first is not None  # noqa: S101 -- there are kinds
    raise first


def _pin(client: Client, execution_id: str, verb: str, words: str, *, as_json: bool) -> None:
    with client:
        row = by_id(client, EXECUTION, execution_id)
        told = client.post(EXECUTION.of(row["id"]) + f"/{verb}")
    if as_json:
        output.show_json(told)
    else:
        output.show_fields(f"the backup {words}", {"execution": row["id"]})


def _print_logs(client: Client, noun: Noun, work_id: str, *, follow: bool) -> None:
    last = 0
    while True:
        ended = not follow or client.get(noun.of(work_id))["status"] not in _ACTIVE
        last = _print_lines(client, noun, work_id, last)
        if ended:
            return
        time.sleep(FOLLOW_SECONDS)


def _print_lines(client: Client, noun: Noun, work_id: str, after: int) -> int:
    """Prints what follows line number `after`; returns the number of the last line."""
    while True:
        lines = client.get(noun.of(work_id) + "/logs", after=after, limit=LOG_PAGE)["data"]
        for line in lines:
            after = line["number"]
            level = "" if line["level"] == "info" else f"{line['level']}: "
            output.show(
                output.visible(f"{line['created_at'][:10]} {line['created_at'][11:19]}  {level}{line['message']}")
            )
        if len(lines) < LOG_PAGE:
            return after


def _tell_started(started: Document, what: str, work_id: str, *, as_json: bool) -> None:
    if as_json:
        output.show_json(started)
    else:
        follow = {"follow": f"dataguardian execution logs {work_id} --follow"}
        output.show_fields(f"the {what} is queued", {what: work_id, **follow})


def _show_list(client: Client, found: Document) -> None:
    rows, pagination = found["data"], found["pagination"]
    if not rows:
        output.show("no executions: dataguardian job run JOB starts one")
        return
    jobs, sources = names(client, JOB), names(client, DATASOURCE)
    columns = ["ID", "JOB", "STATUS", "STARTED", "TOOK", "SIZE", "STORED", ""]
    look.show_table(columns, _rows(rows, jobs, sources), right=["TOOK", "SIZE", "STORED"])
    if pagination["total_pages"] > pagination["page"]:
        more = pagination["total"] - pagination["page"] * pagination["limit"]
        output.show(f"and {more} more: --page {pagination['page'] + 1}")


def _rows(rows: list[Document], jobs: dict[str, str], sources: dict[str, str]) -> list[list[Any]]:
    ids = look.short_ids(row["id"] for row in rows)
    return [
        [
            ids[row["id"]],
            jobs.get(row["job_id"] or "") or sources.get(row["datasource_id"], look.NOTHING),
            look.state(row["status"]),
            look.when(row["started_at"] or row["created_at"]),
            look.duration(row["duration_seconds"]),
            look.size(row["size_bytes"]),
            look.size(row["compressed_size_bytes"]),
            ", ".join(_marks(row)),
        ]
        for row in rows
    ]


def _marks(row: Document) -> list[str]:
    pinned = ["pinned"] if row["pinned"] else []
    return ["DAMAGED", *pinned] if row.get("last_verification_ok") is False else pinned


def _verification(row: Document) -> str | None:
    if row.get("last_verified_at") is None:
        return "not yet" if row["status"] == _ENDED_WELL else None
    words = {True: "good", False: "DAMAGED", None: "the stored bytes are good, the rest was not checked"}
    return f"{look.moment(row['last_verified_at'])}: {words[row['last_verification_ok']]}"


def _show(client: Client, row: Document) -> None:
    jobs, sources, storages = names(client, JOB), names(client, DATASOURCE), names(client, STORAGE)
    given = {
        "id": row["id"],
        "job": jobs.get(row["job_id"] or ""),
        "datasource": sources.get(row["datasource_id"], row["datasource_id"]),
        "storage": storages.get(row["storage_location_id"] or ""),
        "status": row["status"] + (", to be cancelled" if row["cancel_requested"] and row["status"] in _ACTIVE else ""),
        "trigger": row["trigger"],
        "created": look.moment(row["created_at"]),
        "started": look.moment(row["started_at"]),
        "finished": look.moment(row["finished_at"]),
        "duration": look.duration(row["duration_seconds"]),
        "size": look.size(row["size_bytes"]),
        "stored": look.size(row["compressed_size_bytes"]),
        "backup": row["backup_path"],
        "checksum": row["checksum"],
        "encrypted": look.encryption(row["metadata"].get("encryption")),
        "verified": _verification(row),
        "pinned": "yes" if row["pinned"] else "no",
        "attempt": row["attempt"],
        "error": row["error_message"],
    }
    output.show_fields("execution", {key: value for key, value in given.items() if value is not None}, style="bold")
    targets = row.get("targets") or []
    if len(targets) > 1:
        fields = {
            storages.get(target["storage_location_id"], target["storage_location_id"]): _target_words(target)
            for target in targets
        }
        output.show_fields("storage locations", fields, style="bold")


def _target_words(target: Document) -> str:
    reason = f": {target['error_message']}" if target["error_message"] else ""
    again = f", repaired {look.when(target['next_repair_at'])}" if target["next_repair_at"] else ""
    return f"{target['status']}{again}{reason}"
