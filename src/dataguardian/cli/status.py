"""`dataguardian status`: how things stand, on one screen."""

from __future__ import annotations

from typing import Any

from dataguardian.cli import look, output
from dataguardian.cli.client import Client, Document, ServiceError, ServiceUrl, connect
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.datasource import place_of as source_place
from dataguardian.cli.job import next_of, schedule_of
from dataguardian.cli.options import Json
from dataguardian.cli.queues import QUEUES, show_counts
from dataguardian.cli.recoverystate import kit_of, kit_words, proofs_of, show_proofs
from dataguardian.cli.storage import place_of as storage_place
from dataguardian.cli.things import DATASOURCE, EXECUTION, JOB, NOTIFICATION, STORAGE

SHOWN_JOBS = 20
SHOWN_NOTIFICATIONS = 5

_GB = 10**9


def status(*, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Show how things stand: jobs, sources, storages, queues, notifications."""
    with connect(url, token_file) as client:
        info, who = client.get("/api/system/info"), client.get("/api/session")
        overview = client.get("/api/system/overview")
        queues = _queues(client)
        kit, proofs = kit_of(client), proofs_of(client)
        if json:
            parts = {"info": info, "session": who, "overview": overview, "queues": queues}
            output.show_json({**parts, "recovery_kit": kit, "key_proofs": proofs})
            return
        _show_service(client, info, who)
        _show_jobs(client, overview)
        _show_sources(client)
        _show_storages(client, overview)
        _heading("queues")
        if queues is None:
            output.warn("the queue server does not answer: nothing new can be started")
        else:
            show_counts(queues)
        _heading("recovery")
        if kit is not None:
            output.show(f"recovery kit: {kit_words(kit)}")
        if proofs:
            show_proofs(proofs)
        _show_notifications(client, overview["unread_notifications"])


def _queues(client: Client) -> list[Document] | None:
    """Returns the queues; None while their server is away."""
    try:
        return client.rows(QUEUES)
    except ServiceError as error:
        if error.word != "queue_unavailable":
            raise
        return None


def _heading(text: str) -> None:
    from rich.text import Text

    output.show("", Text(text, style="bold underline"))


def _show_service(client: Client, info: Document, who: Document) -> None:
    output.show_fields(
        f"DataGuardian {info['version']}",
        {
            "address": client.url,
            "home": info["home"],
            "catalogue": info["catalogue"],
            "queue": info["queue"],
            "time zone": info["timezone"],
            "you are": _who(who),
        },
    )
    lost, exposed = info["secrets"]["lost"], info["secrets"]["exposed_backups"]
    if lost:
        names = ", ".join(sorted({f"{entry['thing']} {entry['name']}" for entry in lost}))
        output.warn(f"secrets cannot be opened: {names}; put their key back, or enter them again")
    if exposed:
        output.warn(
            f"{len(exposed)} backups of the catalogue hold secrets in clear: `dataguardian secrets status` lists them"
        )


def _who(session: Document) -> str:
    """Returns who the service says that we are, and what of it is not usual."""
    limited = "" if session["datasource_ids"] is None else f", of {len(session['datasource_ids'])} datasources only"
    return f"{session['name']} ({session['kind']}), {session['role']}: {', '.join(session['permissions'])}{limited}"


def _show_jobs(client: Client, overview: Document) -> None:
    _heading("backup jobs")
    jobs = list(client.every(JOB.path))
    if not jobs:
        output.show("none yet: dataguardian job add NAME --datasource DATASOURCE --cron '0 3 * * *'")
        return
    jobs.sort(key=lambda job: (job["next_execution_at"] is None, job["next_execution_at"] or job["name"]))
    failing = {job["job_id"]: job["failures_in_row"] for job in overview["failing_jobs"]}
    rows = [_job_row(client, job, failing.get(job["id"], 0)) for job in jobs[:SHOWN_JOBS]]
    look.show_table(["JOB", "LAST RUN", "", "STORED", "NEXT RUN", "SCHEDULE"], rows, right=["STORED"])
    if len(jobs) > SHOWN_JOBS:
        output.show(f"and {len(jobs) - SHOWN_JOBS} more: dataguardian job list")


def _job_row(client: Client, job: Document, failures: int) -> list[Any]:
    last = next(iter(client.get(EXECUTION.path, job_id=job["id"], limit=1)["data"]), None)
    if last is None:
        return [job["name"], look.state("unknown"), "never", look.NOTHING, next_of(job), schedule_of(job)]
    when = look.when(last["finished_at"] or last["started_at"] or last["created_at"])
    again = f", {failures} times in a row" if failures > 1 else ""
    encrypted = ", encrypted" if last["metadata"].get("encryption") else ""
    stored = look.size(last["compressed_size_bytes"]) + encrypted
    return [job["name"], look.state(last["status"]), when + again, stored, next_of(job), schedule_of(job)]


def _show_sources(client: Client) -> None:
    _heading("datasources")
    rows = list(client.every(DATASOURCE.path))
    if not rows:
        output.show("none yet: dataguardian datasource add NAME URL")
        return
    look.show_table(
        ["DATASOURCE", "TYPE", "STATUS", "CHECKED", "WHERE"],
        [
            [
                row["name"],
                row["type"],
                look.state(row["status"] if row["enabled"] else "disabled"),
                look.when(row["last_health_check_at"]),
                source_place(row["connection_config"]),
            ]
            for row in rows
        ],
    )


def _show_storages(client: Client, overview: Document) -> None:
    _heading("storage locations")
    numbers = {row["id"]: row for row in overview["storage_locations"]}
    rows = [(row, numbers.get(row["id"], {})) for row in client.every(STORAGE.path)]
    if not rows:
        output.show("none yet: dataguardian storage add NAME URL --default")
        return
    look.show_table(
        ["STORAGE", "TYPE", "STATUS", "BACKUPS", "STORED", "FREE", "WHERE"],
        [
            [
                row["name"] + (" (default)" if row["is_default"] else ""),
                row["type"],
                look.state(row["status"]),
                str(held.get("backups", 0)),
                look.size(held.get("size_bytes", 0)),
                look.size(None if row["available_space_gb"] is None else row["available_space_gb"] * _GB),
                storage_place(row["config"]),
            ]
            for row, held in rows
        ],
        right=["BACKUPS", "STORED", "FREE"],
    )


def _show_notifications(client: Client, unread: int) -> None:
    _heading("notifications")
    if not unread:
        output.show("nothing unread")
        return
    rows = client.get(NOTIFICATION.path, unread=True, limit=SHOWN_NOTIFICATIONS)["data"]
    look.show_table(
        ["SEVERITY", "WHEN", "UNREAD"],
        [[look.state(row["severity"]), look.when(row["created_at"]), row["title"]] for row in rows],
    )
    if unread > len(rows):
        output.show(f"and {unread - len(rows)} more: dataguardian notification list --unread")
