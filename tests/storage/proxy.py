"""A TCP proxy that does what a script says. A fault that never fired fails its test: `assert_all_fired()`."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self

BLOCK_BYTES = 64 * 1024


@dataclass(kw_only=True)
class Wire:
    """What happens to one direction of a connection once `after_bytes` have passed, in all connections together.

    `reset` sends a RST, `close` ends the connection as if all were said, `stall` passes nothing for `seconds`, `slow`
    pauses for `seconds` before each further block of 1 KiB. `times` connections are hit, one after the other.
    """

    way: Literal["up", "down"]
    what: Literal["reset", "close", "stall", "slow"]
    after_bytes: int = 0
    seconds: float = 0.0
    times: int = 1
    fired: int = field(default=0, init=False)
    passed: int = field(default=0, init=False)


class TcpProxy:
    """Listens on a port of its own and passes everything on to `address`, but for what the faults say."""

    def __init__(self, address: tuple[str, int], *faults: Wire) -> None:
        self._address = address
        self._faults = list(faults)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def script(self, *faults: Wire) -> None:
        """Replaces the script; what has passed so far does not count."""
        with self._lock:
            self._faults = list(faults)

    def assert_all_fired(self) -> None:
        missed = [fault for fault in self._faults if fault.fired != fault.times]
        assert not missed, f"these faults never fired, or not as often as scripted: {missed}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(ours,), daemon=True).start()

    def _serve(self, ours: socket.socket) -> None:
        with ours, suppress(OSError), socket.create_connection(self._address) as theirs:
            other = {ours: theirs, theirs: ours}
            open_ = {ours, theirs}
            while open_ and not self._ended.is_set():
                for source in select.select(list(open_), [], [], 0.1)[0]:
                    data = source.recv(BLOCK_BYTES)
                    if not data:
                        open_.discard(source)
                        other[source].shutdown(socket.SHUT_WR)
                    elif not self._pass(data, other[source], ours, way="up" if source is ours else "down"):
                        return

    def _pass(self, data: bytes, target: socket.socket, ours: socket.socket, *, way: str) -> bool:
        """Passes a block on; returns False when the connection is to end."""
        fault = self._met(len(data), way)
        if fault is None:
            target.sendall(data)
            return True
        if fault.what == "reset":
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if fault.what == "close":
            target.sendall(data[: len(data) // 2])
            return False
        if fault.what == "stall":
            self._ended.wait(fault.seconds)
        self._trickle(data, target, fault)
        return not self._ended.is_set()

    def _trickle(self, data: bytes, target: socket.socket, fault: Wire) -> None:
        step = 1024 if fault.what == "slow" else len(data)
        for offset in range(0, len(data), step):
            if fault.what == "slow" and self._ended.wait(fault.seconds):
                return
            target.sendall(data[offset : offset + step])

    def _met(self, size_bytes: int, way: str) -> Wire | None:
        with self._lock:
            for fault in self._faults:
                if fault.way == way and (fault.fired < fault.times or fault.what == "slow"):
                    fault.passed += size_bytes
                    if fault.passed > fault.after_bytes:
                        fault.passed = 0
                        fault.fired = min(fault.fired + 1, fault.times)
                        return fault
        return None


def bounded(seconds: float, began: float) -> None:
    """Asserts that what began at `began` (time.monotonic) took at most so long."""
    took = time.monotonic() - began
    assert took < seconds, f"took {took:.1f} s where {seconds:g} s is the bound"
