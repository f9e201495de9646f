"""The service: one process that holds a home and runs the API, the workers and the scheduler, or some of them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from enum import StrEnum

import structlog
import uvicorn

from dataguardian.api.app import create_app
from dataguardian.core.context import Context
from dataguardian.core.home import Home
from dataguardian.core.importing import Importer
from dataguardian.core.selfguard import SelfGuard
from dataguardian.core.services import Services, assemble
from dataguardian.db.migrate import upgrade
from dataguardian.db.session import Database
from dataguardian.domain.clock import SystemClock
from dataguardian.domain.errors import ConflictError, DataGuardianError, UsageError
from dataguardian.queues.embedded import EmbeddedServer
from dataguardian.queues.live import Live
from dataguardian.queues.producer import Queues
from dataguardian.settings import Settings
from dataguardian.workers.crew import Crew, scheduler_loops, worker_loops
from dataguardian.workers.loops import Loop, run_loop

log = structlog.get_logger(__name__)

WATCH_SECONDS = 1.0


class Role(StrEnum):
    """What a process does. Roles other than `all` need a database and a queue server that they can share."""

    ALL = "all"
    API = "api"
    WORKER = "worker"
    SCHEDULER = "scheduler"


Announce = Callable[[Services], Awaitable[None]]


async def serve(settings: Settings, role: Role, announce: Announce) -> None:
    """Runs until SIGTERM or SIGINT; a second one ends the grace of running work.

    `announce` is called once, when everything answers.

    Raises UsageError for a host that is not loopback or a role that lacks its servers, ConflictError when the home or
    the port is taken, and what the catalogue or the queue server say at the start.
    """
    check_host(settings.host)
    _check_role(settings, role)
    stopping, hurried = asyncio.Event(), asyncio.Event()
    with Home(settings.home) as home, _signals(stopping, hurried):
        async with _context(settings, home) as context:
            services = assemble(context)
            await _prepare(services, home, role)
            await _run(services, role, stopping, hurried, announce)


def check_host(host: str) -> None:
    """Refuses every address that others could reach, until there is access control."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UsageError(
            f"this release listens on loopback addresses only, and {host} is none",
            hint="use --host 127.0.0.1, and an SSH tunnel to reach it from elsewhere",
        )


async def _prepare(services: Services, home: Home, role: Role) -> None:
    """What must be true before anything may be reconciled, cleaned up or started."""
    imported = await Importer(services.context).after_restore()
    if imported is not None:
        log.warning("this catalogue was restored or moved", imported=imported.backups, unreadable=imported.unreadable)
    if role is Role.ALL:
        guard = SelfGuard(services.context, services.datasources, services.storages, services.jobs, services.executions)
        await guard.register(home)


async def _run(
    services: Services, role: Role, stopping: asyncio.Event, hurried: asyncio.Event, announce: Announce
) -> None:
    settings = services.context.settings
    async with AsyncExitStack() as stack:
        if role in (Role.ALL, Role.WORKER):
            crew = Crew(services)
            crew.start()
            stack.push_async_callback(_release, crew, hurried, settings.drain_seconds)
            await stack.enter_async_context(_looping(services, worker_loops(services)))
        if role in (Role.ALL, Role.SCHEDULER):
            await stack.enter_async_context(_looping(services, scheduler_loops(services)))
        if role in (Role.ALL, Role.API):
            await stack.enter_async_context(_listening(services, stopping))
        await announce(services)
        await stopping.wait()
        log.info("stopping", drain_seconds=settings.drain_seconds)


async def _release(crew: Crew, hurried: asyncio.Event, drain_seconds: float) -> None:
    """Lets running work end within the grace; a second signal ends the grace."""

    async def watch() -> None:
        await hurried.wait()
        log.info("a second signal: not waiting for running work")
        crew.hurry()

    watcher = asyncio.create_task(watch(), name="second signal")
    try:
        await crew.stop(drain_seconds)
    finally:
        watcher.cancel()


@asynccontextmanager
async def _context(settings: Settings, home: Home) -> AsyncIterator[Context]:
    """The catalogue, migrated, and the queue; the embedded server is watched, and stopped last."""
    async with AsyncExitStack() as stack:
        url = settings.redis_url or await _embedded(stack, home)
        await asyncio.to_thread(upgrade, settings.catalogue_url)
        database = Database(settings.catalogue_url)
        stack.push_async_callback(database.close)
        queues, live = Queues(url), Live(url)
        stack.push_async_callback(queues.close)
        live.start()
        stack.push_async_callback(live.close)
        yield Context(settings, SystemClock(), database, queues, live, home.home_id, home.boot_id)


async def _embedded(stack: AsyncExitStack, home: Home) -> str:
    server = EmbeddedServer(home.path / "queue")
    server.start()  # in this thread: its death signal is tied to the thread that starts it
    stack.callback(server.stop)
    watcher = asyncio.create_task(_keep_alive(server), name="embedded queue server")
    stack.callback(watcher.cancel)
    return server.url


async def _keep_alive(server: EmbeddedServer) -> None:
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if not server.alive():
            log.error("the embedded queue server died; starting it again")
            server.stop()
            with contextlib.suppress(DataGuardianError):
                server.start()


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
async def _listening(services: Services, stopping: asyncio.Event) -> AsyncIterator[None]:
    settings = services.context.settings
    listener = listen(settings.host, settings.port)
    config = uvicorn.Config(
        create_app(services),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
        server_header=False,
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


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket; raises ConflictError when the port is taken. Port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, because asyncio sends small answers at once (TCP_NODELAY) only on sockets that say what they are:
    # else every answer waits 40 ms for the acknowledgement of its own head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConflictError(
            f"cannot listen on {host}:{port}: {error.strerror}", hint="choose another port with --port"
        ) from error
    listener.set_inheritable(False)
    return listener


@contextmanager
def _signals(stopping: asyncio.Event, hurried: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def ask() -> None:
        (hurried if stopping.is_set() else stopping).set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ask)
    try:
        yield
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signum)


def _check_role(settings: Settings, role: Role) -> None:
    if role is not Role.ALL and (settings.database_url is None or settings.redis_url is None):
        raise UsageError(
            f"--role {role} needs servers that the other roles share",
            hint="set DATABASE_URL=postgresql://… and REDIS_URL=redis://…",
        )
