"""What runs in a service: the catalogue and the services on it, then workers, scheduler and API, as the role says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from socket import socket

import structlog
import uvicorn

from dataguardian.api.app import create_app
from dataguardian.api.connections import LOOPBACK, Bounds, bounded
from dataguardian.bootstrap.keys import open_vault
from dataguardian.bootstrap.service import Announce, Ground, Role, Signals
from dataguardian.db.migrate import upgrade
from dataguardian.db.session import Database
from dataguardian.domain.clock import SystemClock
from dataguardian.domain.errors import DataGuardianError
from dataguardian.queues.live import Live
from dataguardian.queues.producer import Queues
from dataguardian.service.context import Context
from dataguardian.service.importing import Importer
from dataguardian.service.selfguard import SelfGuard
from dataguardian.service.services import Services, assemble
from dataguardian.workers.crew import Crew, access_loops, scheduler_loops, worker_loops
from dataguardian.workers.loops import Loop, run_loop

IMPORT_SECONDS = 300.0
"""How often storages that could not be read after the catalogue was restored are tried again."""

log = structlog.get_logger(__name__)


async def run(ground: Ground, announce: Announce) -> None:
    """Runs until a signal has come and everything has ended."""
    async with _context(ground) as context:
        services = assemble(context)
        loops = await _prepare(services, ground)
        await _work(services, ground, announce, loops)


@asynccontextmanager
async def _context(ground: Ground) -> AsyncIterator[Context]:
    """The catalogue, migrated, and the queue."""
    settings = ground.settings
    url = settings.redis_url or (ground.embedded.url if ground.embedded else "")
    await asyncio.to_thread(upgrade, settings.catalogue_url)
    async with AsyncExitStack() as stack:
        database = Database(settings.catalogue_url)
        stack.push_async_callback(database.close)
        queues, live = Queues(url), Live(url)
        stack.push_async_callback(queues.close)
        live.start()
        stack.push_async_callback(live.close)
        vault = await open_vault(settings, database, holds_home=True)
        yield Context(settings, SystemClock(), database, queues, live, ground.home.home_id, ground.home.boot_id, vault)


async def _prepare(services: Services, ground: Ground) -> list[Loop]:
    """What must be true before anything may be reconciled, cleaned up or started; returns what must be gone on with."""
    loops: list[Loop] = []
    if ground.role.works:
        importer = Importer(services.context)
        imported = await importer.after_restore()
        if imported is not None:
            log.warning(
                "the catalogue was restored or moved", imported=imported.backups, unreadable=imported.unreadable
            )
            if imported.unreadable:
                loops = [Loop("import", IMPORT_SECONDS, importer.after_restore)]
    if ground.role is Role.ALL:
        guard = SelfGuard(services.context, services.datasources, services.storages, services.jobs, services.executions)
        await guard.register(ground.home)
    return loops


async def _work(services: Services, ground: Ground, announce: Announce, loops: list[Loop]) -> None:
    """Everything that runs by itself, until a signal comes; then no work is taken any more, and what runs may end."""
    role, drain_seconds = ground.role, ground.settings.drain_seconds
    crew = Crew(services)
    async with AsyncExitStack() as stack:
        if role.works:
            crew.start()
            stack.push_async_callback(_release, crew, ground.signals, drain_seconds)
            await stack.enter_async_context(_looping(services, [*worker_loops(services), *loops]))
        if role.schedules:
            await stack.enter_async_context(_looping(services, scheduler_loops(services)))
        if ground.listener is not None:
            await services.tokens.make_local(ground.home.path, ground.home.home_id)
            stack.push_async_callback(_last_uses, services)
            await stack.enter_async_context(_looping(services, access_loops(services)))
            await stack.enter_async_context(_listening(services, ground.listener, ground.signals.stopping))
        await announce(services)
        await ground.signals.stopping.wait()
        log.info("stopping", drain_seconds=drain_seconds)
        crew.refuse()


async def _last_uses(services: Services) -> None:
    """Writes down who was here at last, when the catalogue is there."""
    with contextlib.suppress(DataGuardianError):
        await services.tokens.write_uses()
        await services.sessions.write_uses()
        await services.refusals.flush(last=True)


async def _release(crew: Crew, signals: Signals, drain_seconds: float) -> None:
    """Lets running work end within the grace; a second signal ends the grace."""

    async def watch() -> None:
        await signals.hurried.wait()
        log.info("a second signal: not waiting for running work")
        crew.hurry()

    watcher = asyncio.create_task(watch(), name="second signal")
    try:
        await crew.stop(drain_seconds)
    finally:
        watcher.cancel()


@asynccontextmanager
async def _looping(services: Services, loops: list[Loop]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(run_loop(loop, services.context.clock), name=loop.name) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _listening(services: Services, listener: socket, stopping: asyncio.Event) -> AsyncIterator[None]:
    app = create_app(services)
    app.state.stopping = stopping
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        # h11 whatever else is installed: tests/hostile/test_framing.py holds this one.
        http=bounded(Bounds(spared=(*LOOPBACK, *services.context.settings.trusted_proxies))),
        ws="none",
        timeout_graceful_shutdown=5,
        server_header=False,
        proxy_headers=False,  # the gate reads them, of proxies that are trusted
        ssl_certfile=services.context.settings.tls_cert,
        ssl_keyfile=services.context.settings.tls_key,
    )
    server = uvicorn.Server(config)
    # `serve` would take the signals, which are ours; `_serve` is the same without that.
    serving = asyncio.create_task(server._serve(sockets=[listener]), name="api")  # noqa: SLF001 -- see above
    serving.add_done_callback(lambda _: stopping.set())
    while not server.started and not serving.done():  # noqa: ASYNC110 -- uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await serving
