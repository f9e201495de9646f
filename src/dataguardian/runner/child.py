"""The runner itself: `python -m dataguardian.runner`. Speaks `runner/protocol.py` on standard input and output."""

from __future__ import annotations

import traceback
from typing import Any

from dataguardian.domain.errors import DataGuardianError, is_transient
from dataguardian.runner.link import Link
from dataguardian.runner.orders import carry_out
from dataguardian.runner.protocol import UNEXPECTED
from dataguardian.runner.stop import Stop


def main() -> int:
    """Returns 0 when a result or a failure was reported; anything else means a crash."""
    stop = Stop()
    stop.install()
    link = Link(stop)
    try:
        task = link.receive_task()
        result = carry_out(task, link)
    except DataGuardianError as error:
        _fail(link, error, error.as_json())
    except Exception as error:  # noqa: BLE001 -- whatever it is, the service must hear of it
        _fail(link, error, {"error": UNEXPECTED, "message": f"{type(error).__name__}: {error}", "details": {}})
    else:
        link.send("result", result)
    return 0


def _fail(link: Link, error: BaseException, described: dict[str, Any]) -> None:
    stack = "".join(traceback.format_exception(error))
    link.send("failure", described | {"transient": is_transient(error), "stack": stack})
