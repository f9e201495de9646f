"""How long a caller waits for a catalogue that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from dataguardian.domain.errors import CatalogUnavailableError

PATIENCE_SECONDS = 1.2
PING_SECONDS = 0.6

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PatientRoute(APIRoute):
    """A server that hangs, unlike one that is gone, gives no error. So a request that takes long has the catalogue
    asked, on the side, whether it is there at all: 503 within 2 seconds when not, else the request may take its time.
    """

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def patient(request: Request) -> Response:
            work = asyncio.ensure_future(handle(request))
            work.add_done_callback(_heard)
            try:
                await asyncio.wait({work}, timeout=PATIENCE_SECONDS)
                if not work.done():
                    await _ping(request)
                return await work
            finally:
                work.cancel()  # does nothing to work that is done

        return patient


def _heard(work: asyncio.Future[Response]) -> None:
    """What becomes of work that was left behind is nobody's business any more, but must be looked at."""
    if not work.cancelled():
        work.exception()


async def _ping(request: Request) -> None:
    database = request.app.state.services.context.db
    ping = asyncio.ensure_future(database.ping())
    await asyncio.wait({ping}, timeout=PING_SECONDS)
    if not ping.done():
        ping.cancel()
        raise CatalogUnavailableError(
            "the catalogue database does not answer", hint="DataGuardian goes on by itself when it is back"
        )
    with contextlib.suppress(CatalogUnavailableError):  # the request itself will say so
        ping.result()
