"""Carries out backup executions: claims one, runs it in a child process, keeps its lease, records how it ended."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import Any

from dataguardian.core.backup import BackupPlan
from dataguardian.domain.errors import CancelledError
from dataguardian.engines.registry import engine_document
from dataguardian.queues.consumer import NoRetry, TryAgain
from dataguardian.queues.producer import QueueJob
from dataguardian.runner.parent import run_task
from dataguardian.runner.protocol import BackupOrder, Task
from dataguardian.service.context import Context
from dataguardian.service.executions import Claim, Executions, Failed
from dataguardian.service.logbook import Logbook
from dataguardian.service.options import BackupOptions
from dataguardian.service.safekeeping import opened_config, opened_options
from dataguardian.service.spread import Spread
from dataguardian.service.vault import Vault
from dataguardian.workers.running import Hold, callbacks, kept, patiently, places_of, reason


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
        hold = Hold(claim.execution_id, claim.attempt, partial(self._executions.renew, claim))
        async with kept(self._context, hold, cancelled=cancelled, stopping=self._stopping) as lost:
            try:
                task, options = _task(claim, self._context.vault)
                result = await run_task(
                    task,
                    callbacks(self._context, hold, logbook, cancelled),
                    cancelled=cancelled,
                    timeout_seconds=options.timeout_minutes * 60 if options.timeout_minutes else None,
                    stall_seconds=options.stall_minutes * 60 if options.stall_minutes else None,
                )
            except CancelledError:
                await self._stopped(claim, logbook, lost=lost.is_set())
            except Exception as error:  # noqa: BLE001 -- whatever it is, the row must not stay `running`
                await self._failed(claim, logbook, reason(error))
            else:
                done = await patiently(partial(self._executions.complete, claim, result), until=self._stopping)
                await _tell(logbook, claim, result, done=done)

    async def _stopped(self, claim: Claim, logbook: Logbook, *, lost: bool) -> None:
        if lost:
            await logbook.write("warning", f"attempt {claim.attempt} stopped: somebody else has taken over")
        elif self._stopping.is_set():
            await self._executions.hand_back(claim)
            await logbook.write("info", "handed back: the service is shutting down")
        else:
            await patiently(partial(self._executions.cancelled, claim), until=self._stopping)
            await logbook.write("info", "cancelled on request")

    async def _failed(self, claim: Claim, logbook: Logbook, failed: Failed) -> None:
        await logbook.write("error", failed.message, error=failed.code)
        if await patiently(partial(self._executions.fail, claim, failed), until=self._stopping):
            raise TryAgain(failed.message)
        raise NoRetry(failed.message)


def _task(claim: Claim, vault: Vault) -> tuple[Task, BackupOptions]:
    """Builds the runner's task; raises UsageError when a stored configuration is no longer valid,
    SecretUnreadableError when a secret of it cannot be opened.
    """
    options = opened_options(claim.job, vault)
    engine = opened_config(claim.datasource, vault)
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
        streams=options.streams,
        directory=claim.directory,
    )
    order = BackupOrder(
        plan=plan,
        earlier=claim.earlier,
        strategy=options.storage_strategy,
        lag_seconds=options.storage_lag_seconds,
        bandwidth_limit_mbps=options.bandwidth_limit_mbps,
        encryption=options.encryption.revealed() if options.encryption else None,
    )
    return Task(**places_of(claim.storages, vault), engine=engine, backup=order), options


async def _tell(logbook: Logbook, claim: Claim, result: dict[str, Any], *, done: bool) -> None:
    if not done:
        await logbook.write("info", "somebody else has taken this execution over")
        return
    spread = Spread.of(claim.storages, result)
    for trouble in spread.troubles:
        await logbook.write("warning", trouble)
    several = f", stored in {spread.where}" if len(claim.storages) > 1 else ""
    await logbook.write("info", f"{spread.status}{several}")
