"""`dataguardian queues`: what waits, what runs, and what failed."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import typer

from dataguardian.cli import look, output
from dataguardian.cli.client import Client, Document, ServiceError, ServiceUrl, connect
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.options import Json
from dataguardian.domain.errors import ConflictError, NotFoundError
from dataguardian.domain.sizes import format_size

QUEUES = "/api/system/queues"
SUFFIX = "-queue"

_COUNTS = ("active", "waiting", "prioritized", "delayed", "failed", "completed")

queues = typer.Typer(help="The queues: what waits, what runs, and what failed.", add_completion=False)

Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="Such as backup-queue, or backup.")]


@queues.callback(invoke_without_command=True)
def overview(
    context: typer.Context, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False
) -> None:
    """Show the queues: how much is where, what runs now, and why something failed."""
    if context.invoked_subcommand is not None:
        return
    with connect(url, token_file) as client:
        found = client.rows(QUEUES)
        watched = {queue["name"]: _watched(client, queue) for queue in found}
    if json:
        output.show_json({"queues": [queue | watched[queue["name"]] for queue in found]})
        return
    show_counts(found)
    for queue in found:
        _show_jobs(queue["name"], **watched[queue["name"]])


@queues.command()
def retry(
    job_id: Annotated[
        str | None, typer.Argument(metavar="QUEUE_JOB", help="Its id; without one: all that failed.")
    ] = None,
    *,
    queue: Annotated[str | None, typer.Option(metavar="QUEUE", help="Only of this queue.")] = None,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Put failed queue jobs back, where that can still help."""
    with connect(url, token_file) as client:
        names = [_full(queue)] if queue else [entry["name"] for entry in client.rows(QUEUES)]
        failed = [entry for name in names for entry in _jobs(client, name, "failed")]
        chosen = [entry for entry in failed if job_id is None or entry["id"].startswith(job_id)]
        if job_id is not None and not chosen:
            raise NotFoundError(f"no failed queue job has the id {job_id!r}", hint="`dataguardian queues` shows them")
        if job_id is not None and len(chosen) > 1:
            raise ConflictError(f"{job_id!r} is the beginning of {len(chosen)} ids", hint="write more of it")
        if job_id is not None:
            told, refused = [_retry(client, chosen[0])], list[Document]()
        else:
            told, refused = _retry_all(client, chosen)
    if json:
        output.show_json({"retried": told, "refused": refused})
        return
    lines = [f"{entry['queue']}: {entry['id']} is put back" for entry in told]
    lines += [f"{entry['id']} is left as it is: {entry['reason']}" for entry in refused]
    output.show("\n".join(map(output.visible, lines)) or "nothing has failed")


@queues.command()
def pause(queue: Queue, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Hand out no more jobs of a queue, on any machine. Running ones go on."""
    _switch(connect(url, token_file), queue, "pause", "is paused", as_json=json)


@queues.command()
def resume(queue: Queue, *, url: ServiceUrl = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Hand out a queue's jobs again."""
    _switch(connect(url, token_file), queue, "resume", "goes on", as_json=json)


def show_counts(found: list[Document]) -> None:
    """Prints a line per queue with how much is in each state."""
    rows = [
        [queue["name"].removesuffix(SUFFIX), look.state("paused" if queue["paused"] else "ok"), *_figures(queue)]
        for queue in found
    ]
    columns = ["ACTIVE", "WAITING", "DELAYED", "FAILED", "DONE"]
    look.show_table(["QUEUE", "STATE", *columns], rows, right=columns)


def _retry(client: Client, job: Document) -> Document:
    return client.post(f"{QUEUES}/{job['queue']}/jobs/{job['id']}/retry")


def _retry_all(client: Client, jobs: list[Document]) -> tuple[list[Document], list[Document]]:
    """Returns what was put back, and what was refused: work that has ended is started anew, not tried again."""
    told, refused = [], []
    for job in jobs:
        try:
            told.append(_retry(client, job))
        except ServiceError as error:
            if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                raise
            refused.append({"id": job["id"], "queue": job["queue"], "reason": error.message})
    return told, refused


def _figures(queue: Document) -> list[str]:
    counts = {state: queue["counts"].get(state, 0) for state in _COUNTS}
    waiting = counts["waiting"] + counts["prioritized"] + queue["counts"].get("paused", 0)
    figures = [counts["active"], waiting, counts["delayed"], counts["failed"], counts["completed"]]
    return [str(figure) for figure in figures]


def _watched(client: Client, queue: Document) -> dict[str, list[Document]]:
    """Returns what runs and what failed; nothing is asked for where there is none."""
    return {
        state: _jobs(client, queue["name"], state) if queue["counts"].get(state) else []
        for state in ("active", "failed")
    }


def _jobs(client: Client, queue: str, state: str) -> list[Document]:
    return client.rows(f"{QUEUES}/{queue}/jobs", state=state, limit=100)


def _show_jobs(queue: str, *, active: list[Document], failed: list[Document]) -> None:
    name = queue.removesuffix(SUFFIX)
    if active:
        fields = {entry["id"]: _progress(entry["progress"]) for entry in active}
        output.show_fields(f"\n{name}: running", fields, style="bold cyan")
    if failed:
        fields = {entry["id"]: f"{look.when(entry['finished_at'])}: {entry['failed_reason']}" for entry in failed}
        output.show_fields(f"\n{name}: failed", fields, style="bold red")


def _progress(news: dict[str, Any] | None) -> str:
    if not news:
        return "no news yet"
    total = news.get("total_bytes")
    done = format_size(news.get("size_bytes", 0))
    words = [
        str(news.get("phase", "")),
        str(news.get("stream", "")),
        f"{done} of {format_size(total)}" if total else done,
    ]
    return " ".join(word for word in words if word)


def _switch(client: Client, queue: str, verb: str, words: str, *, as_json: bool) -> None:
    name = _full(queue)
    with client:
        client.post(f"{QUEUES}/{name}/{verb}")
        found = next(entry for entry in client.rows(QUEUES) if entry["name"] == name)
    if as_json:
        output.show_json(found)
    else:
        output.show(f"{name} {words}")


def _full(queue: str) -> str:
    return queue if queue.endswith(SUFFIX) else queue + SUFFIX
