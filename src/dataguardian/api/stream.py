"""Server-sent events of work that goes on: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi.responses import StreamingResponse

from dataguardian.api.access import still_admitted
from dataguardian.api.schemas.common import Output
from dataguardian.db.models import BackupExecution, Repair, Restore, Verification
from dataguardian.domain.errors import DataGuardianError, NotFoundError
from dataguardian.service.services import Services

LOOK_SECONDS = 0.5
BEAT_SECONDS = 15.0
"""Something is sent at least so often: a peer that is gone is noticed, and proxies do not grow impatient."""
MOST_SECONDS = 3600.0
"""No stream lasts longer; browsers come back by themselves."""
ACTIVE = frozenset({"queued", "running"})

_EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"enum": ["state", "progress", "end"]},
        "data": {"type": "string", "description": "JSON: the row, its progress, or nothing"},
    },
    "required": ["event", "data"],
}
EVENTS_DOCUMENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events: `state` with the row, `progress` while it runs, and at last `end`",
        "content": {"text/event-stream": {"schema": _EVENT_SCHEMA}},
    }
}

Row = BackupExecution | Restore | Verification | Repair


@dataclass(frozen=True)
class Followed:
    """What a stream tells of: a row as it is now, how to read it again, and how it is shown."""

    row: Row
    load: Callable[[uuid.UUID], Awaitable[Row]]
    show: Callable[[Any], Output]


def follow(services: Services, stopping: asyncio.Event, followed: Followed) -> StreamingResponse:
    """Streams what becomes of a row: its states and its progress, up to its end. `stopping` ends the stream early."""
    return StreamingResponse(_events(services, stopping, followed), media_type="text/event-stream")


async def _events(services: Services, stopping: asyncio.Event, followed: Followed) -> AsyncIterator[str]:
    row = followed.row
    loop = asyncio.get_running_loop()
    ends, beat = loop.time() + MOST_SECONDS, loop.time()
    told: dict[str, str] = {}
    yield "retry: 3000\n\n"
    while loop.time() < ends and not stopping.is_set():
        news = {"state": followed.show(row).model_dump_json()}
        progress = await services.history.progress(row)
        if progress is not None:
            news["progress"] = json.dumps(progress)
        for event, data in news.items():
            if told.get(event) != data:
                told[event], beat = data, loop.time()
                yield f"event: {event}\ndata: {data}\n\n"
        if row.status not in ACTIVE:
            yield "event: end\ndata: {}\n\n"
            return
        if loop.time() - beat > BEAT_SECONDS:
            beat = loop.time()
            yield ": still here\n\n"
        await _pause(stopping)
        if not await still_admitted():
            return  # the browser comes back, and is told why it may not
        try:
            row = await followed.load(row.id)
        except NotFoundError:
            yield "event: end\ndata: {}\n\n"
            return
        except DataGuardianError:
            continue  # the catalogue is away for a while


async def _pause(stopping: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_SECONDS):
            await stopping.wait()
