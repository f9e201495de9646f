"""A time limit over the whole of a conversation, where the timeouts of sockets only bound each single read.

The conversation runs in a thread of its own. When time is up, every connection that it opened is shut down, which ends
whatever read or write it is in, and the caller goes on at once; what cannot be interrupted (a name server that does
not answer) ends later by itself and finds that it may no longer connect.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")


class TimeLimit:
    """What is left of `seconds`, and the connections that end with it."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds
        self._seconds = seconds
        self._sockets: list[socket.socket] = []
        self._lock = Lock()
        self._over = False

    @property
    def remaining(self) -> float:
        """Seconds left; raises TimeoutError when there are none."""
        left = self._ends_at - time.monotonic()
        if self._over or left <= 0:
            raise TimeoutError(f"no end within {self._seconds:g} seconds")
        return left

    def connect(self, host: str, port: int, *, refuse: Callable[[object], None] = lambda _: None) -> socket.socket:
        """Opens a TCP connection to the first address that answers; raises OSError.

        `refuse` gets the very address that is connected to, in numbers, and raises what it has against it.
        """
        failed: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in _addresses(host, port):
            refuse(address[0])
            try:
                return self._open(socket.socket(family, kind, protocol), address)
            except OSError as error:
                failed = error
        raise failed

    def end(self) -> None:
        """Shuts down every connection; no other can be opened."""
        with self._lock:
            self._over = True
            for watched in self._sockets:
                with suppress(OSError):
                    watched.shutdown(socket.SHUT_RDWR)
                watched.close()
            self._sockets.clear()

    def _open(self, connection: socket.socket, address: tuple[object, ...]) -> socket.socket:
        with ExitStack() as undo:
            undo.callback(connection.close)
            connection.settimeout(self.remaining + 1)  # a net below this limit, which is to be what ends it
            connection.connect(address)
            self._watch(connection)
            undo.pop_all()
        return connection

    def _watch(self, connection: socket.socket) -> None:
        """Keeps a duplicate, which stays valid when TLS takes over the descriptor or its owner closes it."""
        with self._lock:
            if self._over:
                raise TimeoutError(f"no end within {self._seconds:g} seconds")
            self._sockets.append(connection.dup())


def _addresses(host: str, port: int) -> list[tuple[Any, ...]]:
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except UnicodeError as error:
        raise socket.gaierror(f"{host} is not a host name") from error


def within(seconds: float, work: Callable[[TimeLimit], T]) -> T:
    """Returns what `work` returns, or raises what it raises; raises TimeoutError when it takes longer than `seconds`.

    `work` opens its connections by `TimeLimit.connect` only.
    """
    limit = TimeLimit(seconds)
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work(limit))
        except BaseException as error:  # noqa: BLE001 -- raised again in the caller's thread
            result.set_exception(error)

    Thread(target=run, name="notifier", daemon=True).start()
    try:
        return result.result(timeout=seconds)
    finally:
        limit.end()
