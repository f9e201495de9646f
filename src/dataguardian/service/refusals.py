"""Refused sign-ins and refused permissions in the audit log, bounded: a flood of them must not fill the disk.

The first refusal of somebody within a minute is a line at once; how many more there were is one line when the minute
is over. Beyond so many somebodies a minute, and so many lines an hour, refusals are only counted, and told together.
Somebody is an address, of IPv6 a network of 64 bits, and whoever is signed in there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import structlog

from dataguardian.domain.access import Actor, ActorKind, Role
from dataguardian.domain.errors import DataGuardianError
from dataguardian.service.access.throttle import network_of
from dataguardian.service.acting import current_actor
from dataguardian.service.audit import Audit
from dataguardian.service.context import Context

WINDOW_SECONDS = 60.0
MOST_SOURCES = 10
HOUR_SECONDS = 3600.0
MOST_LINES = 200
"""In an hour: two days of an unbroken flood are less than 10 MB."""
MOST_COUNTED = 1000
"""Addresses that are told apart when they are counted together."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Source:
    action: str
    network: str
    actor: str


@dataclass
class _Window:
    """What was refused within one minute."""

    ends: float
    further: dict[_Source, tuple[Actor, int]] = field(default_factory=dict)
    """After the line that told of the first."""
    others: int = 0
    networks: set[str] = field(default_factory=set)


class Refusals:
    """Lines are written beside what was refused: a catalogue that hangs or is away must not hold up its answer."""

    def __init__(self, context: Context, audit: Audit) -> None:
        self._clock = context.clock
        self._audit = audit
        self._window = _Window(0.0)
        self._hour_ends = 0.0
        self._lines = 0
        self._writing: set[asyncio.Task[None]] = set()

    def note(self, action: str, *, actor: Actor | None = None, **about: Any) -> None:  # noqa: ANN401 -- as `record`
        """Tells that something was refused to `actor`, or to whoever acts now."""
        self._turn()
        who = actor or current_actor()
        source = _Source(action, network_of(who.address), who.name)
        known = self._window.further.get(source)
        if known is not None:
            self._window.further[source] = who, known[1] + 1
        elif len(self._window.further) < MOST_SOURCES and self._may_write():
            self._window.further[source] = who, 0
            self._tell(action, actor=who, **about)
        else:
            self._window.others += 1
            if len(self._window.networks) < MOST_COUNTED:
                self._window.networks.add(source.network)

    async def flush(self, *, last: bool = False) -> None:
        """Writes what is to be told of minutes that are over; `last`: of this one, too. Called by a loop and last."""
        self._turn(last=last)
        if self._writing:
            await asyncio.wait(self._writing)

    def _turn(self, *, last: bool = False) -> None:
        """Tells how many more there were when the minute is over."""
        now = self._clock.monotonic()
        if not last and now < self._window.ends:
            return
        past, self._window = self._window, _Window(now + WINDOW_SECONDS)
        if now >= self._hour_ends:
            self._hour_ends, self._lines = now + HOUR_SECONDS, 0
        for source, (who, count) in past.further.items():
            if count and self._may_write():
                self._tell(source.action, actor=who, changes={"further": [None, count]})
            elif count:
                past.others += count
                past.networks.add(source.network)
        if past.others and (last or self._may_write(spare=True)):
            changes = {"refusals": [None, past.others], "networks": [None, len(past.networks)]}
            self._tell("access.flood", actor=unknown(None), changes=changes)
        else:  # told with a later minute's
            self._window.others, self._window.networks = past.others, past.networks

    def _may_write(self, *, spare: bool = False) -> bool:
        if self._lines >= MOST_LINES + (1 if spare else 0):
            return False
        self._lines += 1
        return True

    def _tell(self, action: str, **about: Any) -> None:  # noqa: ANN401 -- as `record`
        task = asyncio.create_task(self._write(action, **about))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, action: str, **about: Any) -> None:  # noqa: ANN401 -- as `record`
        try:
            await self._audit.tell(action, **about)
        except DataGuardianError as error:
            log.warning("a refusal is not in the audit log", action=action, message=error.message)


def unknown(address: str | None, name: str = "unknown") -> Actor:
    """Returns who has not signed in."""
    return Actor(ActorKind.USER, name, Role.VIEWER, frozenset(), datasources=frozenset(), address=address)
