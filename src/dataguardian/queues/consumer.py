"""Taking jobs out of a queue. Wraps BullMQ's worker, whose ways were measured (bullmq 3.4.4):

* a processor from which a CancelledError escapes kills the worker without a word;
* a worker that lost its server may stop for good: it is watched, and a dead one is replaced;
* an exception means "try again by the queue's back-off", unless it is UnrecoverableError.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog
from bullmq import Job, Worker
from bullmq.custom_errors import UnrecoverableError

from dataguardian.domain.errors import DataGuardianError
from dataguardian.queues.connection import worker_url
from dataguardian.queues.definitions import SPECS, QueueName
from dataguardian.queues.producer import QueueJob

LOCK_MS = 30_000
STALLED_MS = 10_000
MAX_STALLED = 2
RECONNECT_MS = 1_000
IDLE_SECONDS = 15
"""How long a worker blocks for a job. At each end of it BullMQ asks once per job that it might run at once, so the
default of 5 s is most of what an idle service costs. A new job ends it at once.
"""
WATCH_SECONDS = 2.0
CLOSE_SECONDS = 5.0

log = structlog.get_logger(__name__)

Processor = Callable[[QueueJob], Awaitable[None]]


class TryAgain(Exception):  # noqa: N818 -- a verdict, not a defect
    """Raised by a processor: the queue shall try this job again after its back-off."""


class NoRetry(Exception):  # noqa: N818 -- a verdict, not a defect
    """Raised by a processor: the job failed, and trying again is pointless."""


class Consumer:
    """Hands the jobs of one queue to `processor`, as many at once as the queue's definition says."""

    def __init__(self, url: str, queue: QueueName, processor: Processor) -> None:
        self._url = url
        self._queue = queue
        self._processor = processor
        self._worker: Worker | None = None
        self._watch: asyncio.Task[None] | None = None
        self._busy: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._watch = asyncio.create_task(self._keep_running(), name=f"consumer of {self._queue}")

    def refuse(self) -> None:
        """Takes no more work; what runs goes on."""
        if self._watch is not None:
            self._watch.cancel()
        if self._worker is not None:
            self._worker.closing = True
            if self._worker.waiting:
                self._worker.waiting.cancel()

    async def idle(self) -> None:
        """Returns when nothing runs."""
        while self._busy:
            await asyncio.wait(self._busy)

    async def close(self) -> None:
        """Closes the connections; for a consumer that refuses work and is idle."""
        if self._worker is not None:
            await _close(self._worker)

    async def stop(self, grace_seconds: float, *, hurry: asyncio.Event) -> None:
        """All of that; sets `hurry`, so that what still runs ends, when the grace is over."""
        self.refuse()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                await self.idle()
        hurry.set()
        await self.idle()
        await self.close()

    async def _keep_running(self) -> None:
        while True:
            worker = self._worker = self._new_worker()
            running = asyncio.create_task(worker.run())
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                return  # `stop` closes the worker
            error = running.exception() if not running.cancelled() else None
            log.warning("queue worker ended, starting another", queue=self._queue.value, error=str(error or ""))
            worker.closing = True
            await _close(worker)
            await asyncio.sleep(WATCH_SECONDS)

    def _new_worker(self) -> Worker:
        worker = Worker(
            self._queue.value,
            self._process,
            {
                "connection": worker_url(self._url),
                "concurrency": SPECS[self._queue].concurrency,
                "lockDuration": LOCK_MS,
                "stalledInterval": STALLED_MS,
                "maxStalledCount": MAX_STALLED,
                "runRetryDelay": RECONNECT_MS,
                "drainDelay": IDLE_SECONDS,
                "autorun": False,
            },
        )
        worker.on("error", self._heard)
        return worker

    async def _process(self, job: Job, _token: str) -> None:
        """Runs the processor in a task of its own, so that nothing that escapes it can reach BullMQ's loop."""
        task = asyncio.create_task(self._guarded(QueueJob.of(job, self._queue, "active")))
        self._busy.add(task)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            raise UnrecoverableError("stopped") from error
        except NoRetry as verdict:
            raise UnrecoverableError(str(verdict)) from verdict
        finally:
            if task.done():
                self._busy.discard(task)
            else:
                task.add_done_callback(self._busy.discard)

    async def _guarded(self, job: QueueJob) -> None:
        try:
            await self._processor(job)
        except (TryAgain, NoRetry):
            raise
        except DataGuardianError as error:
            log.warning("a queue job failed", queue=self._queue.value, job=job.id, message=error.message)
            raise
        except Exception:
            log.exception("a queue job met a defect", queue=self._queue.value, job=job.id)
            raise

    def _heard(self, error: object, *_: object) -> None:
        log.debug("queue worker error", queue=self._queue.value, error=str(error))


async def _close(worker: Worker) -> None:
    """Lets the worker tell the server how its last jobs ended, for a while, and closes its connections.

    Not by BullMQ's `close`, which cannot be interrupted while the server hangs, and then never returns.
    """
    if worker.processing:
        await asyncio.wait(worker.processing, timeout=CLOSE_SECONDS)
    worker.forceClosing = worker.closed = True
    worker.cancelProcessing()
    closing = asyncio.gather(worker.lockManager.close(), worker.backend.close(force=True), return_exceptions=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await closing
