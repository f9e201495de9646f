"""Carries out backup executions: claims one, runs it in a child process, keeps its lease, records how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dataguardian.core.backup import BackupPlan
from dataguardian.core.context import Context
from dataguardian.core.executions import RENEW_SECONDS, Claim, Executions, Failed
from dataguardian.core.logbook import Logbook
from dataguardian.core.options import BackupOptions
from dataguardian.domain.errors import CancelledError, DataGuardianError, is_transient
from dataguardian.engines.registry import engine_document
from dataguardian.queues.consumer import NoRetry, TryAgain
from dataguardian.queues.producer import QueueJob
from dataguardian.runner.parent import (
    Callbacks,
    RunFailedError,
    RunnerCrashedError,
    RunStalledError,
    RunTimedOutError,
    run_task,
)
from dataguardian.runner.protocol import BackupOrder, Task

_LIMITS = (RunTimedOutError, RunStalledError)


class BackupWorker:
    """`process` is the backup queue's processor. `stopping` is set at a shutdown, when the time to finish is over."""

    def __init__(self, context: Context, executions: Executions, stopping: asyncio.Event) -> None:
        self._context = context
        self._executions = executions
        self._stopping = stopping

    async def process(self, queue_job: QueueJob) -> None:
        """Raises TryAgain for the queue's back-off, NoRetry when that is pointless; returns when all is done."""
        claim = await self._executions.claim(uuid.UUID(queue_job.data["id"]), int(queue_job.data["number"]))
        if claim is None:
            return
        logbook = Logbook(self._context, claim.execution_id)
        await logbook.write("info", f"attempt {claim.attempt} began", directory=claim.directory)
        try:
            await self._carry_out(claim, logbook)
        finally:
            await self._context.live.forget(str(claim.execution_id))
            await logbook.close()

    async def _carry_out(self, claim: Claim, logbook: Logbook) -> None:
        cancelled = asyncio.Event()
        async with self._kept(claim, cancelled) as lost:
            try:
                task, options = _task(claim)
                result = await run_task(
                    task,
                    self._callbacks(claim, logbook),
                    cancelled=cancelled,
                    timeout_seconds=options.timeout_minutes * 60 if options.timeout_minutes else None,
                    stall_seconds=options.stall_minutes * 60 if options.stall_minutes else None,
                )
            except CancelledError:
                await self._stopped(claim, logbook, lost=lost.is_set())
            except DataGuardianError as error:
                await self._failed(claim, logbook, _reason(error))
            else:
                done = await self._executions.complete(claim, result)
                await logbook.write("info", "completed" if done else "somebody else has taken this execution over")

    async def _stopped(self, claim: Claim, logbook: Logbook, *, lost: bool) -> None:
        if lost:
            await logbook.write("warning", f"attempt {claim.attempt} stopped: somebody else has taken over")
        elif self._stopping.is_set():
            await self._executions.hand_back(claim)
            await logbook.write("info", "handed back: the service is shutting down")
        else:
            await self._executions.cancelled(claim)
            await logbook.write("info", "cancelled on request")

    async def _failed(self, claim: Claim, logbook: Logbook, failed: Failed) -> None:
        await logbook.write("error", failed.message, error=failed.code)
        if await self._executions.fail(claim, failed):
            raise TryAgain(failed.message)
        raise NoRetry(failed.message)

    @asynccontextmanager
    async def _kept(self, claim: Claim, cancelled: asyncio.Event) -> AsyncIterator[asyncio.Event]:
        """Renews the lease while the block runs, and passes cancels on; the event yielded tells of a lost lease."""
        lost = asyncio.Event()

        async def keep() -> None:
            while not cancelled.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RENEW_SECONDS):
                        await self._nudged(claim)
                if self._stopping.is_set():
                    cancelled.set()
                    return
                with contextlib.suppress(DataGuardianError):  # the catalogue is away: the lease lasts a while
                    answer = await self._executions.renew(claim)
                    if answer is None:
                        lost.set()
                    if answer is not False:
                        cancelled.set()

        keeper = asyncio.create_task(keep())
        try:
            yield lost
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    async def _nudged(self, claim: Claim) -> None:
        """Returns when a cancel was asked for, or the service stops; the message only makes it faster."""
        waiters = {
            asyncio.ensure_future(self._context.live.nudged(str(claim.execution_id))),
            asyncio.ensure_future(self._stopping.wait()),
        }
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()

    def _callbacks(self, claim: Claim, logbook: Logbook) -> Callbacks:
        async def progress(data: dict[str, Any]) -> None:
            await self._context.live.set(str(claim.execution_id), data | {"attempt": claim.attempt})

        async def log(data: dict[str, Any]) -> None:
            await logbook.write(data.pop("level", "info"), data.pop("message", ""), **data)

        async def confirm() -> bool:
            return await self._executions.still_ours(claim)

        return Callbacks(progress, log, confirm)


def _task(claim: Claim) -> tuple[Task, BackupOptions]:
    """Builds the runner's task; raises UsageError when a stored configuration is no longer valid."""
    options = BackupOptions.model_validate(claim.job.backup_options)
    engine = {"type": claim.datasource.type, **claim.datasource.connection_config}
    plan = BackupPlan(
        execution_id=str(claim.execution_id),
        attempt=claim.attempt,
        name=claim.job.name,
        engine=claim.datasource.type,
        source=engine_document(engine).describe(),
        compression=options.compression,
        compression_level=options.compression_level,
        part_size_bytes=options.part_size_bytes,
        include=options.include,
        exclude=options.exclude,
        directory=claim.directory,
    )
    storage = {"type": claim.storage.type, **claim.storage.config}
    return Task(storage=storage, engine=engine, backup=BackupOrder(plan=plan, earlier=claim.earlier)), options


def _reason(error: DataGuardianError) -> Failed:
    if isinstance(error, RunFailedError):
        failure = error.failure
        message = f"{failure.message} ({error.hint})" if error.hint else failure.message
        return Failed(message, failure.stack, failure.error, failure.transient)
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    transient = isinstance(error, RunnerCrashedError) or (is_transient(error) and not isinstance(error, _LIMITS))
    return Failed(message, str(error.details.get("last_words", "")), error.code, transient)
