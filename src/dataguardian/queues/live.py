"""What running work says of itself, for whoever watches: progress that expires, and nudges that make cancels quick."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from typing import Any, cast

from redis.exceptions import RedisError

from dataguardian.domain.errors import QueueUnavailableError
from dataguardian.queues.connection import quick_client, translated

EXPIRE_SECONDS = 120
RECONNECT_SECONDS = 1.0
PATIENCE_SECONDS = 0.5
"""News are not worth waiting for."""
_PROGRESS = "dataguardian:progress:"
_NUDGES = "dataguardian:nudges"


class Live:
    """Nothing here is needed for correctness: a server that is away loses news, not work."""

    def __init__(self, url: str) -> None:
        self._client = quick_client(url)
        self._listeners: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._listening: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        self._listening = asyncio.create_task(self._listen(), name="nudges")

    async def set(self, work_id: str, progress: dict[str, Any]) -> None:
        with contextlib.suppress(QueueUnavailableError):
            async with translated(), asyncio.timeout(PATIENCE_SECONDS):
                await self._client.set(_PROGRESS + work_id, json.dumps(progress), ex=EXPIRE_SECONDS)

    async def get(self, work_id: str) -> dict[str, Any] | None:
        """Returns the last progress; None when there is none, or the server is away."""
        with contextlib.suppress(QueueUnavailableError):
            async with translated(), asyncio.timeout(PATIENCE_SECONDS):
                text = await self._client.get(_PROGRESS + work_id)
                return cast("dict[str, Any]", json.loads(text)) if text else None
        return None

    async def forget(self, work_id: str) -> None:
        with contextlib.suppress(QueueUnavailableError):
            async with translated(), asyncio.timeout(PATIENCE_SECONDS):
                await self._client.delete(_PROGRESS + work_id)

    async def nudge(self, work_id: str) -> None:
        """Tells whoever works on it, in whichever process, to look at its row now."""
        with contextlib.suppress(QueueUnavailableError):
            async with translated(), asyncio.timeout(PATIENCE_SECONDS):
                await self._client.publish(_NUDGES, work_id)

    async def nudged(self, work_id: str) -> None:
        """Returns at the next nudge."""
        event = asyncio.Event()
        self._listeners[work_id].add(event)
        try:
            await event.wait()
        finally:
            self._listeners[work_id].discard(event)
            if not self._listeners[work_id]:
                del self._listeners[work_id]

    async def close(self) -> None:
        self._closed = True
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
        await self._client.aclose()

    async def _listen(self) -> None:
        # redis-py swallows a cancel that comes while it connects, so the flag is what ends the loops.
        while not self._closed:
            with contextlib.suppress(RedisError, OSError):
                await self._listen_once()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        async with self._client.pubsub() as channel:
            await channel.subscribe(_NUDGES)
            while not self._closed:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=1.0)
                if message is not None:
                    for event in self._listeners.get(message["data"], ()):
                        event.set()
