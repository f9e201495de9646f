"""The child process that carries one message to Apprise's services: JSON in, JSON out, nothing else."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dataguardian.notifiers._targets import ForbiddenTargetError, refuse_forbidden
from dataguardian.settings import notifier_networks

MARGIN_SECONDS = 2

_OPENING = ("socket.connect", "socket.sendto", "socket.sendmsg")


def main() -> None:
    """Ends by itself soon after its time, for the case that nobody is left to end it."""
    order = json.load(sys.stdin)
    signal.setitimer(signal.ITIMER_REAL, order["timeout_seconds"] + MARGIN_SECONDS)
    answer = _own_output()
    logging.disable()
    refused = _guard_sockets()
    with ThreadPoolExecutor(max_workers=len(order["urls"])) as pool:
        results = list(pool.map(lambda url: _send(url, order, refused), order["urls"]))
    outcome = {
        kind: [at for at, result in enumerate(results) if result == kind] for kind in ("unknown", "failed", "refused")
    }
    os.write(answer, json.dumps(outcome).encode())


def _own_output() -> int:
    """Keeps standard output for the answer, whatever a plug-in prints."""
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answer


def _guard_sockets() -> set[int]:
    """Has every address looked at before a plug-in's socket opens it, redirects and all.

    Returns the threads whose connection was refused.
    """
    networks = notifier_networks()
    refused: set[int] = set()

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _OPENING or arguments[1] is None:
            return
        try:
            refuse_forbidden(_host(arguments[0], arguments[1]), networks)
        except ForbiddenTargetError:
            refused.add(threading.get_ident())
            raise

    sys.addaudithook(look)
    return refused


def _host(used: socket.socket, address: Any) -> object:  # noqa: ANN401 -- each family has its own kind of address
    is_numbered = used.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple)
    return address[0] if is_numbered else "127.0.0.1"  # whatever else there is, it is on this machine


def _send(url: str, order: dict[str, Any], refused: set[int]) -> str:
    """Returns what became of it: `sent`, `failed`, `refused`, or `unknown` when Apprise does not understand the URL."""
    import apprise  # noqa: PLC0415 -- heavy, and an optional package

    refused.discard(threading.get_ident())

    client = apprise.Apprise(asset=apprise.AppriseAsset(storage_mode="memory"))
    if not client.add(url):
        return "unknown"
    sent = client.notify(
        body=order["body"], title=order["title"], notify_type=order["type"], body_format=apprise.NotifyFormat.TEXT
    )
    if sent:
        return "sent"
    return "refused" if threading.get_ident() in refused else "failed"


if __name__ == "__main__":
    main()
