"""How long a caller waits for a catalogue that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from dataguardian.db.session import Database
from dataguardian.domain.errors import CatalogUnavailableError

PATIENCE_SECONDS = 1.2
PING_SECONDS = 0.6

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
T = TypeVar("T")


class PatientRoute(APIRoute):
    """A server that hangs, unlike one that is gone, gives no error. So a request that takes long has the catalogue
    asked, on the side, whether it is there at all: 503 within 2 seconds when not, else the request may take its time.
    """

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def patient(request: Request) -> Response:
            return await patiently(handle(request), request.app.state.services.context.db)

        return patient


async def patiently(work: Coroutine[Any, Any, T], database: Database) -> T:
    """Returns what `work` does, but waits no longer than that for a catalogue that hangs."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_heard)
    try:
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
        if not task.done():
            await _ping(database)
        return await task
    finally:
        task.cancel()  # does nothing to work that is done


def _heard(work: asyncio.Future[Any]) -> None:
    """What becomes of work that was left behind is nobody's business any more, but must be looked at."""
    if not work.cancelled():
        work.exception()


async def _ping(database: Database) -> None:
    ping = asyncio.ensure_future(database.ping())
    await asyncio.wait({ping}, timeout=PING_SECONDS)
    if not ping.done():
        ping.cancel()
        raise CatalogUnavailableError(
            "the catalogue database does not answer", hint="DataGuardian goes on by itself when it is back"
        )
    with contextlib.suppress(CatalogUnavailableError):  # the request itself will say so
        ping.result()
