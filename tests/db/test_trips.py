"""SQLite's own thread: how often it is gone to, and that no row is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dataguardian.db import trips
from dataguardian.db.session import Database

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n"


@pytest.mark.parametrize("count", [0, 1, trips.ROWS_PER_TRIP, trips.ROWS_PER_TRIP + 1, 3 * trips.ROWS_PER_TRIP])
def test_all_rows_come_whole_and_in_order(tmp_path: Path, count: int) -> None:
    """A result may end in the middle of a trip, at its end, or take several, streamed or not."""
    statement = text(f"SELECT * FROM ({NUMBERS.format(count=max(count, 1))}) LIMIT {count}")
    expected = list(range(1, count + 1))

    async def story() -> None:
        database = Database(f"sqlite:///{tmp_path}/catalogue.db")
        async with database.read() as session:
            assert list((await session.execute(statement)).scalars()) == expected
            streamed = await session.stream(statement, execution_options={"yield_per": 7})
            assert [row.i async for row in streamed] == expected
            one_by_one = await session.stream(statement)
            assert [row.i async for row in one_by_one] == expected
        await database.close()

    asyncio.run(story())


def test_a_statement_is_one_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trip wakes two threads, which is most of what a request costs where backups keep all cores busy."""
    made: list[Any] = []
    go = trips.Connection.trip

    async def counted(connection: trips.Connection, work: Callable[[], None]) -> None:
        made.append(work)
        await go(connection, work)

    async def story() -> None:
        database = Database(f"sqlite:///{tmp_path}/catalogue.db")
        async with database.read() as session:
            monkeypatch.setattr(trips.Connection, "trip", counted)
            for _ in range(3):
                assert len((await session.execute(text(NUMBERS.format(count=100)))).all()) == 100
        await database.close()

    asyncio.run(story())
    assert len(made) == 3


def test_a_result_that_is_left_half_read_holds_nothing(tmp_path: Path) -> None:
    """A statement that stayed open would keep its table from being dropped."""

    async def story() -> None:
        database = Database(f"sqlite:///{tmp_path}/catalogue.db")
        async with database.write() as session:
            await session.execute(text(f"CREATE TABLE numbers AS {NUMBERS.format(count=5 * trips.ROWS_PER_TRIP)}"))
            half = await session.stream(text("SELECT i FROM numbers"), execution_options={"yield_per": 10})
            assert [row.i for row in await half.fetchmany(3)] == [1, 2, 3]
            await half.close()
            await session.execute(text("DROP TABLE numbers"))
        await database.close()

    asyncio.run(story())
