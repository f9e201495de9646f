"""How long those must wait who tried too often: a back-off that doubles, per address and per name.

Counters live in memory, so many at most, and an hour at most; those of users are in their rows, too, so that a restart
gives nobody fresh attempts. An attempt counts when it begins: a hundred at once are a hundred.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass

from dataguardian.domain.clock import Clock
from dataguardian.domain.errors import TooManyAttemptsError

MOST_ENTRIES = 4096
LONGEST_SECONDS = 900.0
"""A lock ends: who only wants to keep somebody out must come back every quarter of an hour, for one attempt."""
FORGOTTEN_SECONDS = 3600.0
FREE_FOR_NAME = 5
FREE_FOR_ADDRESS = 20
FORGIVEN_SECONDS = 180.0
"""Many people may share one address: so more are free there, and every so often one is forgiven."""
_IPV6_NETWORK = 64


@dataclass
class _Counter:
    attempts: int
    last: float
    until: float


class Throttle:
    """Counts by key; `free` attempts cost nothing, and one is forgiven every `forgiven_seconds`."""

    def __init__(self, clock: Clock, free: int, forgiven_seconds: float = math.inf) -> None:
        self._clock = clock
        self._free = free
        self._forgiven_seconds = forgiven_seconds
        self._counters: OrderedDict[str, _Counter] = OrderedDict()

    def check(self, key: str) -> None:
        """Raises TooManyAttemptsError while the key must wait. That makes nothing longer."""
        counter = self._counters.get(key)
        if counter is not None:
            refuse(counter.until - self._clock.monotonic())

    def count(self, key: str, at_least: int = 0) -> None:
        """Counts an attempt. `at_least`: how many there were before, as another witness knows it."""
        now = self._clock.monotonic()
        counter = self._counters.pop(key, None)
        if counter is None or now - counter.last > FORGOTTEN_SECONDS:
            counter = _Counter(0, now, now)
        forgiven = int((now - counter.last) / self._forgiven_seconds)
        counter.attempts = max(counter.attempts - forgiven, at_least, 0) + 1
        pause = pause_after(counter.attempts, self._free)
        counter.last, counter.until = now, now + pause
        self._counters[key] = counter
        while len(self._counters) > MOST_ENTRIES:
            self._counters.popitem(last=False)

    def state(self, key: str) -> tuple[int, float]:
        """Returns how many attempts there were, and the seconds until another one is looked at."""
        counter = self._counters.get(key)
        return (0, 0.0) if counter is None else (counter.attempts, counter.until - self._clock.monotonic())

    def take_back(self, key: str) -> None:
        """Takes back one attempt, which was a good one."""
        counter = self._counters.get(key)
        if counter is not None:
            counter.attempts -= 1
            counter.until = counter.last + pause_after(counter.attempts, self._free)

    def forget(self, key: str) -> None:
        self._counters.pop(key, None)


def refuse(seconds: float) -> None:
    """Raises TooManyAttemptsError when there are seconds to wait."""
    if seconds > 0:
        raise TooManyAttemptsError(
            "too many sign-ins failed",
            hint="wait, then try again; `dataguardian token create` on the machine itself always works",
            retry_after=math.ceil(seconds),
        )


def pause_after(attempts: int, free: int) -> float:
    """Returns the seconds to wait after that many attempts: 0, then 2, 4, 8 …, LONGEST_SECONDS at most."""
    beyond = attempts - free
    return 0.0 if beyond < 0 else min(2.0 ** min(beyond + 1, 32), LONGEST_SECONDS)


def network_of(address: str | None) -> str:
    """Returns what counts as one address: of IPv6 a whole /64, which is what one household is given."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_NETWORK), strict=False))
    return str(parsed)


def is_here(address: str | None) -> bool:
    """Tells whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(network_of(address).partition("/")[0]).is_loopback or address == "::1"
    except ValueError:
        return False
