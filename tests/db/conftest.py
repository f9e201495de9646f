"""The catalogue on both databases: every test that takes `catalogue` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dataguardian.db.migrate import upgrade
from dataguardian.db.session import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a catalogue that does not exist yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalogue.db"
    server = request.getfixturevalue("postgres16")
    return str(server.url(server.database()))


@pytest.fixture
async def catalogue(url: str) -> AsyncIterator[Database]:
    upgrade(url)
    database = Database(url)
    yield database
    await database.close()
