"""The runner itself: `python -m dataguardian.runner`. Speaks `runner/protocol.py` on standard input and output."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict
from typing import Any

from dataguardian.core.backup import run_backup
from dataguardian.core.catalog import Backup, load_backup
from dataguardian.core.progress import Progress
from dataguardian.core.restore import run_restore
from dataguardian.core.verify import presence_problems, run_verify
from dataguardian.domain.errors import CancelledError, DataGuardianError, IntegrityError, NotFoundError, is_transient
from dataguardian.engines.base import Engine, RestoreOptions
from dataguardian.engines.registry import ENGINES, build_engine, engine_document
from dataguardian.runner.protocol import Answer, BackupOrder, Message, RestoreOrder, Task, VerifyOrder
from dataguardian.runner.stop import Stop
from dataguardian.storage.base import Storage
from dataguardian.storage.registry import build_storage, storage_document
from dataguardian.storage.retrying import wrap

PROGRESS_SECONDS = 0.25
FRESH_SECONDS = 20.0
"""An answer that took longer is asked for again: this process may have been frozen, and the lease may be over."""


class Link:
    """The line to the service. Only this writes to the real standard output; whatever else prints goes to stderr."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._last_progress = 0.0

    def receive_task(self) -> Task:
        task = Task.model_validate_json(sys.stdin.buffer.readline())
        threading.Thread(target=self._listen, name="service", daemon=True).start()
        return task

    def send(self, kind: str, data: dict[str, Any]) -> None:
        line = Message.model_validate({"kind": kind, "data": data}).model_dump_json().encode() + b"\n"
        with self._lock:
            self._out.write(line)

    def report(self, progress: Progress) -> None:
        self.stop.check()
        now = time.monotonic()
        if now - self._last_progress >= PROGRESS_SECONDS:
            self._last_progress = now
            self.send("progress", asdict(progress))

    def confirm(self) -> None:
        """Asks whether the work is still ours, before what cannot be recalled; nothing stops the runner afterwards.

        Raises CancelledError when it is not: somebody else has taken over, or a person has cancelled it.
        """
        asked = -FRESH_SECONDS
        while time.monotonic() - asked >= FRESH_SECONDS:
            asked = time.monotonic()
            self.send("confirm", {})
            if not self._answers.get().go:
                raise CancelledError("it was cancelled, or another worker has taken over, so nothing more is written")
        self.stop.no_return()

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            self._answers.put(Answer.model_validate_json(line))
        self._answers.put(Answer(go=False))
        os.kill(os.getpid(), signal.SIGTERM)  # the service is gone: stop, clean up


def main() -> int:
    """Returns 0 when a result or a failure was reported; anything else means a crash."""
    stop = Stop()
    stop.install()
    link = Link(stop)
    try:
        task = link.receive_task()
        result = _carry_out(task, link)
    except DataGuardianError as error:
        _fail(link, error, error.as_json())
    except Exception as error:  # noqa: BLE001 -- whatever it is, the service must hear of it
        _fail(link, error, {"error": "unexpected", "message": f"{type(error).__name__}: {error}", "details": {}})
    else:
        link.send("result", result)
    return 0


def _carry_out(task: Task, link: Link) -> dict[str, Any]:
    storage = wrap(build_storage(storage_document(task.storage)), sleep=link.stop.sleep)
    if task.backup is not None:
        return _backup(task.backup, _engine(task), storage, link)
    if task.restore is not None:
        return _restore(task.restore, _engine(task), storage, link)
    if task.verify is not None:
        return _verify(task.verify, storage, link)
    raise ValueError("a task without an order")


def _backup(order: BackupOrder, engine: Engine, storage: Storage, link: Link) -> dict[str, Any]:
    for directory in order.earlier:
        adopted = _whole(storage, directory)
        if adopted is not None:
            link.send("log", {"level": "info", "message": f"adopted {directory}, which an earlier attempt completed"})
            return _described(adopted, adopted=True)
    result = run_backup(order.plan, engine, storage, report=link.report, before_publish=link.confirm)
    for warning in result.manifest.warnings:
        link.send("log", {"level": "warning", "message": warning})
    return _described(Backup(result.directory, result.manifest, result.parts), adopted=False)


def _restore(order: RestoreOrder, engine: Engine, storage: Storage, link: Link) -> dict[str, Any]:
    manifest = load_backup(storage, order.directory).manifest
    options = RestoreOptions(drop_existing=order.drop_existing, before_swap=link.confirm)
    told: list[str] = []

    def warn(text: str) -> None:
        told.append(text)
        link.send("log", {"level": "warning", "message": text})

    done = run_restore(
        storage,
        order.directory,
        engine,
        manifest.engine,
        streams=order.streams,
        options=options,
        report=link.report,
        warn=warn,
    )
    for warning in [text for text in done.warnings if text not in told]:
        warn(warning)
    return {"size_bytes": done.size_bytes, "duration_seconds": done.duration_seconds, "warnings": done.warnings}


def _verify(order: VerifyOrder, storage: Storage, link: Link) -> dict[str, Any]:
    validate = ENGINES.by_type(load_backup(storage, order.directory).manifest.engine).validate if order.deep else None
    outcome = run_verify(storage, order.directory, validate=validate, report=link.report)
    return {"ok": outcome.ok, "level": outcome.level, "parts": outcome.parts, "errors": outcome.errors}


def _whole(storage: Storage, directory: str) -> Backup | None:
    """Returns the backup when it has a valid manifest, which is written last, and all its parts."""
    try:
        backup = load_backup(storage, directory)
    except (IntegrityError, NotFoundError):
        return None
    return None if any(presence_problems(storage, backup)) else backup


def _described(backup: Backup, *, adopted: bool) -> dict[str, Any]:
    """What the catalogue records of a backup; `chunks` are (path, stored size, stored SHA-256)."""
    manifest = backup.manifest
    return {
        "directory": backup.directory,
        "adopted": adopted,
        "manifest": manifest.model_dump(mode="json", exclude={"streams": {"__all__": {"metadata"}}}),
        "chunks": [(part.path, part.stored_size_bytes, part.stored_sha256) for part in backup.parts],
    }


def _engine(task: Task) -> Engine:
    if task.engine is None:
        raise ValueError("a task without a datasource")
    return build_engine(engine_document(task.engine))


def _fail(link: Link, error: BaseException, described: dict[str, Any]) -> None:
    stack = "".join(traceback.format_exception(error))
    link.send("failure", described | {"transient": is_transient(error), "stack": stack})
