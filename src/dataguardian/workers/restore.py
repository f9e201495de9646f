"""Carries out restores, verifications and repairs.

It claims one, runs it in a child process, keeps its lease, and records the end.
"""

from __future__ import annotations

import asyncio
import uuid
from functools import partial

from dataguardian.core.backupkeys import NO_KEYS, BackupKeys
from dataguardian.db.models import Repair, Restore, Verification
from dataguardian.domain.errors import CancelledError
from dataguardian.queues.consumer import NoRetry
from dataguardian.queues.producer import QueueJob
from dataguardian.runner.parent import run_task
from dataguardian.runner.protocol import RepairOrder, RestoreOrder, Task, VerifyOrder
from dataguardian.service.context import Context
from dataguardian.service.decryption import keys_for
from dataguardian.service.executions import Failed
from dataguardian.service.logbook import Logbook
from dataguardian.service.safekeeping import opened_config
from dataguardian.service.vault import Vault
from dataguardian.service.work import Work
from dataguardian.service.workkinds import Kind, WorkClaim
from dataguardian.workers.running import Hold, callbacks, kept, patiently, places_of, reason


class RestoreWorker:
    """`process` is the processor of the restore queue and of the repair queue.

    `stopping` is set at a shutdown, when the time to finish is over.
    """

    def __init__(self, context: Context, work: Work, stopping: asyncio.Event) -> None:
        self._context = context
        self._work = work
        self._stopping = stopping

    async def process(self, queue_job: QueueJob) -> None:
        """Raises NoRetry when the work failed: this queue tries once."""
        data = queue_job.data
        claim = await self._work.claim(Kind(data["kind"]), uuid.UUID(data["id"]), int(data["number"]))
        if claim is None:
            return
        logbook = Logbook(self._context, claim.work_id)
        await logbook.write("info", f"{claim.kind} of {claim.execution.backup_path} began", attempt=claim.attempt)
        try:
            await self._carry_out(claim, logbook)
        finally:
            await self._context.live.forget(str(claim.work_id))
            await logbook.close()

    async def _carry_out(self, claim: WorkClaim, logbook: Logbook) -> None:
        cancelled = asyncio.Event()
        hold = Hold(claim.work_id, claim.attempt, partial(self._work.renew, claim))
        async with kept(self._context, hold, cancelled=cancelled, stopping=self._stopping) as lost:
            try:
                news = callbacks(self._context, hold, logbook, cancelled)
                keys = await _keys(self._context, claim)
                result = await run_task(_task(claim, self._context.vault, keys), news, cancelled=cancelled)
            except CancelledError:
                await self._stopped(claim, logbook, lost=lost.is_set())
            except Exception as error:  # noqa: BLE001 -- whatever it is, the row must not stay `running`
                await self._failed(claim, logbook, reason(error))
            else:
                done = await patiently(partial(self._work.complete, claim, result), until=self._stopping)
                await logbook.write("info", "completed" if done else "somebody else has taken this over")

    async def _stopped(self, claim: WorkClaim, logbook: Logbook, *, lost: bool) -> None:
        if lost:
            await logbook.write("warning", f"attempt {claim.attempt} stopped: somebody else has taken over")
        elif self._stopping.is_set():
            await self._work.hand_back(claim)
            await logbook.write("info", "stopped: the service is shutting down")
        else:
            await patiently(partial(self._work.cancelled, claim), until=self._stopping)
            await logbook.write("info", "cancelled on request")

    async def _failed(self, claim: WorkClaim, logbook: Logbook, failed: Failed) -> None:
        await logbook.write("error", failed.message, error=failed.code)
        await patiently(partial(self._work.fail, claim, failed), until=self._stopping)
        raise NoRetry(failed.message)


async def _keys(context: Context, claim: WorkClaim) -> BackupKeys:
    """Returns what the runner needs: keys that it has no use for do not leave the catalogue."""
    opens = isinstance(claim.row, Restore) or (isinstance(claim.row, Verification) and claim.row.deep)
    return await keys_for(context, claim.execution) if opens else NO_KEYS


def _task(claim: WorkClaim, vault: Vault, keys: BackupKeys) -> Task:
    """Builds the runner's task."""
    directory, checksum = str(claim.execution.backup_path), claim.execution.checksum
    places = places_of(claim.storages, vault)
    if isinstance(claim.row, Verification):
        verify = VerifyOrder(directory=directory, checksum=checksum, deep=claim.row.deep, keys=keys.revealed())
        return Task(**places, verify=verify)
    if isinstance(claim.row, Repair):
        return Task(**places, repair=RepairOrder(directory=directory, checksum=checksum))
    if claim.target is None:
        raise ValueError("a restore without a target")
    order = RestoreOrder(
        directory=directory,
        checksum=checksum,
        drop_existing=claim.row.drop_existing,
        streams=tuple(claim.row.streams),
        keys=keys.revealed(),
    )
    engine = opened_config(claim.target, vault)
    return Task(**places, engine=engine, restore=order)
