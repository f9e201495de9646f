"""The child process that carries one message to Apprise's services: JSON in, JSON out, nothing else."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MARGIN_SECONDS = 2


def main() -> None:
    """Ends by itself soon after its time, for the case that nobody is left to end it."""
    order = json.load(sys.stdin)
    signal.setitimer(signal.ITIMER_REAL, order["timeout_seconds"] + MARGIN_SECONDS)
    answer = _own_output()
    logging.disable()
    with ThreadPoolExecutor(max_workers=len(order["urls"])) as pool:
        results = list(pool.map(lambda url: _send(url, order), order["urls"]))
    outcome = {
        "unknown": [at for at, result in enumerate(results) if result is None],
        "failed": [at for at, result in enumerate(results) if result is False],
    }
    os.write(answer, json.dumps(outcome).encode())


def _own_output() -> int:
    """Keeps standard output for the answer, whatever a plug-in prints."""
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answer


def _send(url: str, order: dict[str, Any]) -> bool | None:
    """Returns whether the service took the message, None when Apprise does not understand the URL."""
    import apprise  # noqa: PLC0415 -- heavy, and an optional package

    client = apprise.Apprise(asset=apprise.AppriseAsset(storage_mode="memory"))
    if not client.add(url):
        return None
    return bool(
        client.notify(
            body=order["body"], title=order["title"], notify_type=order["type"], body_format=apprise.NotifyFormat.TEXT
        )
    )


if __name__ == "__main__":
    main()
