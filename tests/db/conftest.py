"""The catalogue on both databases: every test that takes `url` or `catalogue` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dataguardian.db.migrate import upgrade
from dataguardian.db.session import Database

Story = Callable[[Database], Coroutine[Any, Any, None]]
Play = Callable[[Story], None]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a catalogue that does not exist yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalogue.db"
    server = request.getfixturevalue("postgres16")
    return str(server.url(server.database()))


@pytest.fixture
def play(url: str) -> Play:
    """Runs a story on a catalogue that was just made."""

    def run(story: Story) -> None:
        upgrade(url)
        asyncio.run(_played(url, story))

    return run


async def _played(url: str, story: Story) -> None:
    database = Database(url)
    try:
        await story(database)
    finally:
        await database.close()
