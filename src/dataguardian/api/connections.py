"""Connections, before anything is known of who is at their other end.

uvicorn waits for ever for a request that nobody goes on sending, and takes as many connections as the system lets it
have: then there is no file left for a backup either. A stranger on the network could bring that about with one line.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from dataguardian.api.neighbours import address_in, within
from dataguardian.service.access.throttle import network_of
from dataguardian.settings import Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@dataclass
class Bounds:
    """What one server takes. Networks that are `spared` are not counted: this machine, and proxies that are trusted."""

    spared: Sequence[Network] = LOOPBACK
    look_seconds: float = 30.0
    """Within once to twice this a request must be there, head and body."""
    of_one: int = 100
    """Connections of one address (of IPv6: a /64). A browser opens six."""
    of_all: int = 500
    held: Counter[str] = field(default_factory=Counter)

    def take(self, address: str) -> str | None:
        """Counts a connection; returns what it counts for, to be given back, None when it does not count.

        Raises OverflowError when there are too many.
        """
        if within(address_in(address), self.spared):
            return None
        network = network_of(address)
        if self.held[network] >= self.of_one or self.held.total() >= self.of_all:
            raise OverflowError("too many connections")
        self.held[network] += 1
        return network

    def give_back(self, network: str) -> None:
        self.held[network] -= 1
        if not self.held[network]:
            del self.held[network]


class Connection(H11Protocol):
    """One connection, ended when a request takes too long to come. What waits for our answer is left alone."""

    bounds: ClassVar[Bounds]
    _network: str | None = None
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        try:
            self._network = self.bounds.take(self.client[0] if self.client else "")
        except OverflowError:
            transport.abort()
        else:
            self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._look is not None:
            self._look.cancel()
        if self._network is not None:
            self.bounds.give_back(self._network)

    def _look_later(self) -> None:
        self._look = self.loop.call_later(self.bounds.look_seconds, self._give_up_on, self._awaited())

    def _give_up_on(self, before: object) -> None:
        if before is not None and self._awaited() == before:
            self.transport.abort()
        else:
            self._look_later()

    def _awaited(self) -> object:
        """Returns which request the other side has yet to send, or to send all of; None while it waits for us."""
        state = self.conn.their_state
        return (self.cycle, state) if state in (h11.IDLE, h11.SEND_BODY) else None


def bounded(bounds: Bounds) -> type[Connection]:
    """Returns the protocol of one server."""
    return type("BoundedConnection", (Connection,), {"bounds": bounds})
