"""The service's side of the runner: start it, listen to it, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from dataguardian.domain.errors import CancelledError, DataGuardianError
from dataguardian.engines.processes import launcher
from dataguardian.runner.protocol import MAX_LINE_BYTES, Answer, Failure, Message, Task
from dataguardian.settings import without_secrets

STOP_GRACE_SECONDS = 30.0
"""How long a runner may take to end its children and to remove what it stored."""
STDERR_TAIL_LINES = 50


class RunFailedError(DataGuardianError):
    """The work failed in the runner. `failure` is what it said."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, **{key: value for key, value in failure.details.items() if key != "hint"})
        self.hint = str(failure.details.get("hint", ""))
        self.failure = failure


class RunnerCrashedError(DataGuardianError):
    """The runner ended without a result: killed, out of memory, or a defect."""

    code = "runner_crashed"


class RunTimedOutError(DataGuardianError):
    """The work took longer than its job allows."""

    code = "timed_out"


class RunStalledError(DataGuardianError):
    """No byte moved for longer than the job allows."""

    code = "stalled"


@dataclass
class Callbacks:
    """What the service wants to hear. `confirm` answers whether the attempt still holds its execution."""

    progress: Callable[[dict[str, Any]], Awaitable[None]]
    log: Callable[[dict[str, Any]], Awaitable[None]]
    confirm: Callable[[], Awaitable[bool]]


async def run_task(
    task: Task,
    callbacks: Callbacks,
    *,
    cancelled: asyncio.Event,
    timeout_seconds: float | None = None,
    stall_seconds: float | None = None,
) -> dict[str, Any]:
    """Carries out one task in a child process and returns its result.

    Raises RunFailedError, RunTimedOutError, RunStalledError, RunnerCrashedError, or domain CancelledError after
    `cancelled` was set; in each case the child and its children have ended. Work that was beyond recall when it was
    told to stop ends well, and its result is returned.
    """
    run = _Run(callbacks)
    process = await asyncio.create_subprocess_exec(
        *launcher(),
        sys.executable,
        "-m",
        "dataguardian.runner",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=without_secrets(os.environ),
        start_new_session=True,  # where Linux shares processors out by session, it has a share of its own
        limit=MAX_LINE_BYTES,
    )
    try:
        _write(process, task.model_dump_json())
        await _watch(run, process, cancelled, timeout_seconds, stall_seconds)
    finally:
        await _end(process)
    if run.result is not None:
        return run.result
    if run.failure is not None:
        raise RunFailedError(run.failure)
    raise RunnerCrashedError(
        f"the runner ended with code {process.returncode} and without a result",
        hint="the log of this execution has its last words; out of memory is a usual reason",
        last_words="\n".join(run.tail)[-2000:],
    )


@dataclass
class _Run:
    """State of one run while its lines come in."""

    callbacks: Callbacks
    result: dict[str, Any] | None = None
    failure: Failure | None = None
    moved_at: float = 0.0
    moved: tuple[Any, ...] = ()
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=STDERR_TAIL_LINES))

    async def take(self, message: Message, process: asyncio.subprocess.Process) -> None:
        if message.kind == "result":
            self.result = message.data
        elif message.kind == "failure":
            self.failure = Failure.model_validate(message.data)
        elif message.kind == "confirm":
            _write(process, Answer(go=await self.callbacks.confirm()).model_dump_json())
        elif message.kind == "log":
            await self.callbacks.log(message.data)
        else:
            self.note_movement(message.data)
            await self.callbacks.progress(message.data)

    def note_movement(self, progress: dict[str, Any]) -> None:
        moved = (
            progress.get("stream"),
            progress.get("size_bytes"),
            progress.get("parts"),
            progress.get("stored_bytes"),
        )
        if moved != self.moved:
            self.moved, self.moved_at = moved, asyncio.get_running_loop().time()


async def _watch(
    run: _Run,
    process: asyncio.subprocess.Process,
    cancelled: asyncio.Event,
    timeout_seconds: float | None,
    stall_seconds: float | None,
) -> None:
    """Listens until the runner ends, somebody cancels, or a limit is reached."""
    loop = asyncio.get_running_loop()
    started = run.moved_at = loop.time()
    reading = asyncio.ensure_future(_read(run, process))
    stderr = asyncio.ensure_future(_read_stderr(run, process))
    asked = asyncio.ensure_future(cancelled.wait())
    try:
        while not reading.done():
            limits = [started + timeout_seconds] if timeout_seconds else []
            limits += [run.moved_at + stall_seconds] if stall_seconds else []
            wait = max(0.0, min(limits) - loop.time()) if limits else None
            await asyncio.wait({reading, asked}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                break
            try:
                if asked.done():
                    raise CancelledError("cancelled on request")
                _check_limits(loop.time(), started, run.moved_at, timeout_seconds, stall_seconds)
            except DataGuardianError:
                await _told_to_stop(run, process, reading)
                if run.result is None:
                    raise
                break
        await reading
        await stderr
    finally:
        for pending in (asked, reading, stderr):
            pending.cancel()


async def _told_to_stop(run: _Run, process: asyncio.subprocess.Process, reading: asyncio.Future[None]) -> None:
    """Tells the runner to stop and listens to its last words: it may have been beyond recall."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    await asyncio.wait({reading}, timeout=STOP_GRACE_SECONDS)
    if not reading.done():
        run.result = None
        _kill(process)


def _check_limits(
    now: float, started: float, moved_at: float, timeout_seconds: float | None, stall_seconds: float | None
) -> None:
    if timeout_seconds and now >= started + timeout_seconds:
        raise RunTimedOutError(
            f"it did not end within {timeout_seconds / 60:g} minutes",
            hint="raise the job's timeout_minutes, or find out what slows the source or the storage down",
        )
    if stall_seconds and now >= moved_at + stall_seconds:
        raise RunStalledError(
            f"no byte moved for {stall_seconds / 60:g} minutes",
            hint="look for a lock in the source or a storage that hangs; stall_minutes sets the limit",
        )


async def _read(run: _Run, process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None  # noqa: S101 -- it was asked for
    async for line in process.stdout:
        await run.take(Message.model_validate_json(line), process)
    await process.wait()


async def _read_stderr(run: _Run, process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None  # noqa: S101 -- it was asked for
    while data := await process.stderr.read(4096):
        run.tail.extend(data.decode("utf-8", "backslashreplace").splitlines())


async def _end(process: asyncio.subprocess.Process) -> None:
    """Sees to it that the runner has ended: TERM lets it clean up, KILL after a limit. Not interrupted by a cancel."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_GRACE_SECONDS):
                await asyncio.shield(process.wait())
        except TimeoutError:
            _kill(process)
            await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kills the runner; its children die with it, and what is in its own group dies at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _write(process: asyncio.subprocess.Process, line: str) -> None:
    assert process.stdin is not None  # noqa: S101 -- it was asked for
    with contextlib.suppress(ConnectionError, RuntimeError):
        process.stdin.write(line.encode() + b"\n")
