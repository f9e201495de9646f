"""Connections to the queue server, and the one place that translates its errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from dataguardian.domain.errors import QueueUnavailableError

ANSWER_SECONDS = 1.5
"""How long the API waits for the queue server. redis-py's default would retry for minutes."""
WORKER_SOCKET_SECONDS = 40
"""Workers block up to 10 s for a job; redis-py's default of 5 s would cut that off and lose jobs for a while."""
MAX_CONNECTIONS = 32


def quick_client(url: str) -> Redis:
    """A client that says at once when the server is away."""
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 1),
        max_connections=MAX_CONNECTIONS,
        health_check_interval=15,
    )


def worker_url(url: str) -> str:
    """The same server with a time-out that fits blocking reads."""
    return f"{url}{'&' if '?' in url else '?'}socket_timeout={WORKER_SOCKET_SECONDS}"


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turns whatever means "no job can be queued now" into QueueUnavailableError."""
    try:
        yield
    except (AuthenticationError, NoPermissionError) as error:
        raise QueueUnavailableError(
            f"the queue server refuses us: {error}", hint="look at the user and password in REDIS_URL"
        ) from error
    except (TimeoutError, RedisConnectionError, RedisTimeoutError, BusyLoadingError, OSError) as error:
        raise QueueUnavailableError(
            "the queue server does not answer", hint="DataGuardian goes on by itself when it is back"
        ) from error
    except ResponseError as error:
        if not _cannot_write(error):
            raise
        raise QueueUnavailableError(
            f"the queue server takes nothing: {error}", hint="make room on its disk, or give it more memory"
        ) from error


def _cannot_write(error: ResponseError) -> bool:
    return isinstance(error, OutOfMemoryError | ReadOnlyError) or "MISCONF" in str(error)
