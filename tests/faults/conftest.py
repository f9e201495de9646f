"""Services of a test, on embedded parts and on real servers; nothing of them outlives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.service import Parts, RedisServer, Service
from tests.servers import PostgresServer

EMBEDDED, REAL = "embedded", "real"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


@pytest.fixture
def real(tmp_path: Path, postgres17: PostgresServer, redis: RedisServer) -> Iterator[Parts]:
    """A database on PostgreSQL and a Redis, to which nobody else is connected."""
    name = postgres17.database()
    yield Parts(tmp_path, postgres17, name, redis)
    postgres17.drop(name)


@pytest.fixture(params=[EMBEDDED, REAL])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Parts:
    """Once the embedded parts, once the real servers."""
    return Parts(tmp_path) if request.param == EMBEDDED else request.getfixturevalue("real")


@pytest.fixture
def services() -> Iterator[Callable[..., Service]]:
    """Makes services, not yet started."""
    made: list[Service] = []

    def make(parts: Parts, **options: Any) -> Service:
        made.append(Service(parts, **options))
        return made[-1]

    yield make
    for service in made:
        service.end()


@pytest.fixture
def service(parts: Parts, services: Callable[..., Service]) -> Service:
    return services(parts)
