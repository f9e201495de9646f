"""Following work that the service does: the same progress as of a backup by hand, until the work has ended."""

from __future__ import annotations

import time
from dataclasses import fields
from http import HTTPStatus

from dataguardian.cli.client import Client, Document, ServiceError
from dataguardian.cli.progress import Watch, watch
from dataguardian.cli.signals import STOP, stoppable
from dataguardian.cli.things import Noun
from dataguardian.core.progress import Progress
from dataguardian.domain.errors import DataGuardianError, UnreachableError

POLL_SECONDS = 0.3
PATIENCE_SECONDS = 60.0
"""How long the service may be away, to be restarted for instance, before waiting for it ends."""

_ACTIVE = {"queued", "running", "deleting"}
_FIELDS = {field.name for field in fields(Progress)}


def wait_for(client: Client, noun: Noun, work_id: str, doing: str, *, quiet: bool, cumulative: bool) -> Document:
    """Shows the progress of an execution, restore or verification; returns its row when it has ended.

    A signal ends the waiting and not the work.
    """
    with stoppable(f"no longer waiting; the service goes on with {noun.name} {work_id}"):
        with watch(doing, quiet=quiet, cumulative=cumulative) as progress:
            row = _until_ended(client, noun.of(work_id), progress)
        STOP.finish()
    return row


def _until_ended(client: Client, path: str, progress: Watch) -> Document:
    last_answer = time.monotonic()
    while True:
        STOP.check()
        try:
            row = client.get(path)
        except DataGuardianError as error:
            if not _passes(error) or time.monotonic() - last_answer > PATIENCE_SECONDS:
                raise
        else:
            last_answer = time.monotonic()
            if row["status"] not in _ACTIVE:
                return row
            _report(row, progress)
        time.sleep(POLL_SECONDS)


def _passes(error: DataGuardianError) -> bool:
    return isinstance(error, UnreachableError) or (
        isinstance(error, ServiceError) and error.status == HTTPStatus.SERVICE_UNAVAILABLE
    )


def _report(row: Document, progress: Watch) -> None:
    news = {key: value for key, value in (row.get("progress") or {}).items() if key in _FIELDS}
    if news:
        progress.report(Progress(**{"phase": "", **news}))
