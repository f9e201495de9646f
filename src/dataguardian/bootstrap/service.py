"""The service: one process that holds a home and runs the API, the workers and the scheduler, or some of them.

Nothing heavy is imported here: home, port and settings are checked, and the embedded queue server is on its way, before
the rest of the program is read (`bootstrap/running.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from dataguardian.domain.errors import ConflictError, DataGuardianError, UsageError
from dataguardian.queues.embedded import EmbeddedServer
from dataguardian.runner.priority import answer_promptly
from dataguardian.service.home import Home
from dataguardian.settings import Settings

if TYPE_CHECKING:
    from dataguardian.service.services import Services

log = structlog.get_logger(__name__)

WATCH_SECONDS = 1.0


class Role(StrEnum):
    """What a process does. Roles other than `all` need a database and a queue server that they can share."""

    ALL = "all"
    API = "api"
    WORKER = "worker"
    SCHEDULER = "scheduler"

    @property
    def works(self) -> bool:
        return self in (Role.ALL, Role.WORKER)

    @property
    def schedules(self) -> bool:
        return self in (Role.ALL, Role.SCHEDULER)

    @property
    def listens(self) -> bool:
        return self in (Role.ALL, Role.API)


Announce = Callable[["Services"], Awaitable[None]]


@dataclass(frozen=True)
class Signals:
    """The first SIGTERM or SIGINT sets `stopping`; a second one, `hurried`, which ends the grace of running work."""

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    hurried: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self) -> None:
        (self.hurried if self.stopping.is_set() else self.stopping).set()


@dataclass(frozen=True)
class Ground:
    """What a process stands on before anything of it runs. `listener` is None for roles that do not listen."""

    settings: Settings
    role: Role
    home: Home
    listener: socket.socket | None
    embedded: EmbeddedServer | None
    signals: Signals


async def serve(settings: Settings, role: Role, announce: Announce) -> None:
    """Runs until SIGTERM or SIGINT; a second one ends the grace of running work.

    `announce` is called once, when everything answers.

    Raises UsageError for a certificate that cannot be served or a role that lacks its servers, ConflictError when the
    home or the port is taken, and what the catalogue or the queue server say at the start.
    """
    _check_role(settings, role)
    answer_promptly()
    if role.listens:
        check_tls(settings)
        warn_of_open_doors(settings)
    with (
        Home(settings.home) as home,
        _listener(settings, role) as listener,
        _handled() as signals,
        _spawned(settings, home) as embedded,
    ):
        with _kept_for_good():
            from dataguardian.bootstrap.running import run  # noqa: PLC0415 -- heavy

        ground = Ground(settings, role, home, listener, embedded, signals)
        async with _kept_alive(embedded):
            await run(ground, announce)


def check_tls(settings: Settings) -> None:
    """Raises UsageError for a certificate and a key that cannot be served."""
    if settings.tls_cert is None or settings.tls_key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_cert, settings.tls_key, password=_no_password
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(
            f"the certificate {settings.tls_cert} with the key {settings.tls_key} cannot be used: {reason}",
            hint="both are PEM, the key has no passphrase and belongs to the certificate",
        ) from error


def _no_password() -> str:
    """Keeps OpenSSL from asking the terminal."""
    raise ValueError("the key has a passphrase")


def warn_of_open_doors(settings: Settings) -> None:
    """Says, in the log, when others on the network could read along."""
    if is_loopback(settings.host) or settings.tls_cert is not None or settings.trusted_proxies:
        return
    log.warning(
        "listening on the network without TLS: whoever is on the way can read passwords and tokens",
        host=settings.host,
        hint="set DATAGUARDIAN_TLS_CERT and DATAGUARDIAN_TLS_KEY, or put a proxy in front and name it in "
        "DATAGUARDIAN_TRUSTED_PROXIES",
    )


def is_loopback(host: str) -> bool:
    """Tells whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket; raises ConflictError when the port is taken. Port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, because asyncio sends small answers at once (TCP_NODELAY) only on sockets that say what they are:
    # else every answer waits 40 ms for the acknowledgement of its own head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # two sockets may be bound to one port, and only one of them may listen
    except OSError as error:
        listener.close()
        raise ConflictError(
            f"cannot listen on {host}:{port}: {error.strerror}", hint="choose another port with --port"
        ) from error
    listener.set_inheritable(False)
    return listener


def _check_role(settings: Settings, role: Role) -> None:
    if role is not Role.ALL and (settings.database_url is None or settings.redis_url is None):
        raise UsageError(
            f"--role {role} needs servers that the other roles share",
            hint="set DATABASE_URL=postgresql://… and REDIS_URL=redis://…",
        )


@contextmanager
def _listener(settings: Settings, role: Role) -> Iterator[socket.socket | None]:
    if not role.listens:
        yield None
        return
    with listen(settings.host, settings.port) as listener:
        yield listener


@contextmanager
def _kept_for_good() -> Iterator[None]:
    """What is loaded within the block stays as long as the process, so the garbage collector never looks at it: not
    now, which would take a fifth of the start, nor later, when one full look would stop every request for 90 ms.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _handled() -> Iterator[Signals]:
    """Handles the signals. Afterwards only the end of the process is left, which they must not turn into a failure."""
    loop, signals = asyncio.get_running_loop(), Signals()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, signals.ask)
    try:
        yield signals
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signum)
            signal.signal(signum, signal.SIG_IGN)


@contextmanager
def _spawned(settings: Settings, home: Home) -> Iterator[EmbeddedServer | None]:
    """The embedded queue server, when there is no other; it is stopped last."""
    if settings.redis_url is not None:
        yield None
        return
    server = EmbeddedServer(home.path / "queue")
    try:
        server.spawn()  # in this thread, which lives as long as the process: the server's death signal is tied to it
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def _kept_alive(server: EmbeddedServer | None) -> AsyncIterator[None]:
    if server is None:
        yield
        return
    await asyncio.to_thread(server.wait_until_ready)
    watcher = asyncio.create_task(_keep_alive(server), name="embedded queue server")
    try:
        yield
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


async def _keep_alive(server: EmbeddedServer) -> None:
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if not server.alive():
            log.error("the embedded queue server died; starting it again")
            try:
                server.spawn()
                await asyncio.to_thread(server.wait_until_ready)
            except (DataGuardianError, OSError) as error:
                log.error("the embedded queue server does not start", message=str(error))  # noqa: TRY400 -- says it all
