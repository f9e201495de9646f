"""The runner: one piece of work in a child process, told, watched and stopped by the service."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dataguardian.core.backup import BackupPlan
from dataguardian.domain.errors import CancelledError
from dataguardian.runner.parent import (
    Callbacks,
    RunFailedError,
    RunnerCrashedError,
    RunStalledError,
    RunTimedOutError,
    run_task,
)
from dataguardian.runner.protocol import BackupOrder, RestoreOrder, Task, VerifyOrder

DIRECTORY = "shop/20261123T040000Z-1-1"


class Heard:
    """Records what the runner says, and answers its question."""

    def __init__(self, *, go: bool = True) -> None:
        self.go = go
        self.progress: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.asked = 0
        self.on_progress = asyncio.Event()

    def callbacks(self) -> Callbacks:
        async def progress(data: dict[str, Any]) -> None:
            self.progress.append(data)
            self.on_progress.set()

        async def log(data: dict[str, Any]) -> None:
            self.logs.append(data)

        async def confirm() -> bool:
            self.asked += 1
            return self.go

        return Callbacks(progress, log, confirm)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(f"note {n} " * 20,) for n in range(5000)])
    connection.close()
    (tmp_path / "storage").mkdir()
    return path


def storage_of(shop: Path) -> Path:
    return shop.parent / "storage"


def backup_task(shop: Path, **changes: Any) -> Task:
    plan = BackupPlan(
        execution_id=str(uuid.uuid4()),
        name="shop",
        engine="sqlite",
        source="sqlite:///shop.db",
        directory=DIRECTORY,
        **changes,
    )
    return Task(
        storage={"type": "local", "path": str(storage_of(shop))},
        engine={"type": "sqlite", "file_path": str(shop)},
        backup=BackupOrder(plan=plan),
    )


async def run(task: Task, heard: Heard, **options: Any) -> dict[str, Any]:
    cancelled = options.pop("cancelled", asyncio.Event())
    return await run_task(task, heard.callbacks(), cancelled=cancelled, **options)


def children_of(pid: int) -> list[int]:
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in out.split()]


def test_a_backup_verifies_and_restores_through_the_runner(shop: Path) -> None:
    """What the runner backs up, it verifies deeply and restores into another file with the same rows."""

    async def story() -> None:
        heard = Heard()
        result = await run(backup_task(shop), heard)
        assert result["directory"] == DIRECTORY
        assert result["adopted"] is False
        assert heard.asked == 1
        assert heard.progress[-1]["phase"] == "backup"
        storage = {"type": "local", "path": str(storage_of(shop))}
        checked = await run(Task(storage=storage, verify=VerifyOrder(directory=DIRECTORY, deep=True)), Heard())
        assert checked == {"ok": True, "level": "deep", "parts": len(result["chunks"]), "errors": []}
        copy = shop.parent / "copy.db"
        engine = {"type": "sqlite", "file_path": str(copy)}
        await run(Task(storage=storage, engine=engine, restore=RestoreOrder(directory=DIRECTORY)), Heard())
        connection = sqlite3.connect(copy)
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (5000,)
        connection.close()

    asyncio.run(story())


def test_a_runner_that_may_not_publish_leaves_nothing(shop: Path) -> None:
    """An attempt that lost its execution writes no manifest and removes its parts."""

    async def story() -> None:
        heard = Heard(go=False)
        with pytest.raises(RunFailedError, match="another worker has taken over"):
            await run(backup_task(shop), heard)
        assert heard.asked == 1

    asyncio.run(story())
    assert list(storage_of(shop).rglob("*")) == []


def test_a_backup_that_an_earlier_attempt_completed_is_adopted(shop: Path) -> None:
    """After a crash between manifest and commit the next attempt takes the finished backup instead of dumping again."""

    async def story() -> None:
        first = await run(backup_task(shop), Heard())
        again = backup_task(shop)
        assert again.backup is not None
        plan = again.backup.plan.model_copy(update={"directory": DIRECTORY[:-1] + "2", "attempt": 2})
        order = BackupOrder(plan=plan, earlier=("shop/20200101T000000Z-1-0", DIRECTORY))
        heard = Heard()
        adopted = await run(again.model_copy(update={"backup": order}), heard)
        assert adopted["adopted"] is True
        assert adopted["directory"] == first["directory"]
        assert adopted["chunks"] == first["chunks"]
        assert "adopted" in heard.logs[0]["message"]

    asyncio.run(story())


def test_failures_cross_the_border_with_their_kind(shop: Path) -> None:
    """A missing source is permanent, says so with code and hint, and carries its stack for the log."""

    async def story() -> None:
        shop.unlink()
        with pytest.raises(RunFailedError) as caught:
            await run(backup_task(shop), Heard())
        assert caught.value.failure.error == "not_found"
        assert caught.value.failure.transient is False
        assert "Traceback" in caught.value.failure.stack

    asyncio.run(story())


@pytest.fixture
def locked(shop: Path) -> Any:
    """A database that somebody holds exclusively, so that a backup of it waits."""
    connection = sqlite3.connect(shop, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    yield shop
    connection.execute("ROLLBACK")
    connection.close()


def test_a_run_that_moves_no_byte_is_ended_as_stalled(locked: Path) -> None:
    """Nothing moves for the job's limit: the run ends as stalled, well before its time limit."""

    async def story() -> None:
        with pytest.raises(RunStalledError, match="no byte moved"):
            await run(backup_task(locked), Heard(), stall_seconds=1.5, timeout_seconds=60)

    asyncio.run(story())
    assert list(storage_of(locked).rglob("*")) == []


def test_a_run_that_takes_too_long_is_ended(locked: Path) -> None:
    """The job's time limit ends a run that does not."""

    async def story() -> None:
        with pytest.raises(RunTimedOutError, match="did not end within"):
            await run(backup_task(locked), Heard(), timeout_seconds=1.5)

    asyncio.run(story())


def test_cancel_ends_the_runner_and_its_children(locked: Path) -> None:
    """A cancel ends the runner and whatever it started, and removes what was stored."""

    async def story() -> None:
        cancelled = asyncio.Event()
        work = asyncio.ensure_future(run(backup_task(locked), Heard(), cancelled=cancelled))
        runner = await started_child()
        grandchildren = [await asyncio.to_thread(wait_for_child, runner)]
        cancelled.set()
        with pytest.raises(CancelledError):
            await work
        for pid in (runner, *grandchildren):
            assert not alive(pid)

    asyncio.run(story())
    assert list(storage_of(locked).rglob("*")) == []


def test_a_killed_runner_is_reported_as_a_crash(locked: Path) -> None:
    """kill -9 of the runner is an error with a name, and its children end with it."""

    async def story() -> None:
        work = asyncio.ensure_future(run(backup_task(locked), Heard()))
        runner = await started_child()
        grandchildren = [await asyncio.to_thread(wait_for_child, runner)]
        os.kill(runner, signal.SIGKILL)
        with pytest.raises(RunnerCrashedError, match="without a result"):
            await work
        await asyncio.sleep(0.5)
        assert not any(alive(pid) for pid in grandchildren)

    asyncio.run(story())


def test_the_runner_ends_when_the_service_is_killed(locked: Path) -> None:
    """kill -9 of the service ends its runners and their children within seconds, and nothing half-written is left."""
    program = textwrap.dedent("""
        import asyncio, sys
        from dataguardian.runner.parent import Callbacks, run_task
        from dataguardian.runner.protocol import Task
        async def nothing(*_): return True
        task = Task.model_validate_json(sys.argv[1])
        asyncio.run(run_task(task, Callbacks(nothing, nothing, nothing), cancelled=asyncio.Event()))
    """)
    service = subprocess.Popen([sys.executable, "-c", program, backup_task(locked).model_dump_json()])
    try:
        runner = wait_for_child(service.pid)
        wait_for_child(runner)
    finally:
        service.kill()
        service.wait()
    assert gone_within(10, runner)
    assert list(storage_of(locked).rglob("*")) == []


async def started_child() -> int:
    return await asyncio.to_thread(wait_for_child, os.getpid())


def wait_for_child(pid: int) -> int:
    for _ in range(200):
        found = [child for child in children_of(pid) if "runner" in command_of(child) or "sqlite" in command_of(child)]
        if found:
            return found[0]
        signal.sigtimedwait([], 0.05)
    pytest.fail(f"process {pid} never started its child")


def command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def alive(pid: int) -> bool:
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def gone_within(seconds: float, pid: int) -> bool:
    for _ in range(int(seconds / 0.05)):
        if not alive(pid):
            return True
        signal.sigtimedwait([], 0.05)
    return False
