"""The audit log on both databases: nobody changes it, its numbers have no gaps whoever writes, its pages are quick."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, insert, text, update
from sqlalchemy.exc import DBAPIError

from dataguardian.db.accounts import AuditEntry
from dataguardian.db.migrate import upgrade
from dataguardian.db.repositories.audit import AuditFilters, AuditRepository, document
from dataguardian.db.session import Database, at_the_end
from dataguardian.domain.access import ActorKind
from dataguardian.domain.auditlog import GENESIS, Chain, storable
from tests.db.conftest import Play

NOW = datetime(2026, 11, 23, 4, tzinfo=UTC)
ENTITY = uuid.UUID("018f0000-0000-7000-8000-000000000001")


def fields(**given: Any) -> dict[str, Any]:
    """Returns what a line says, besides its number, time and hashes."""
    return {
        "actor_kind": ActorKind.USER,
        "actor_id": None,
        "actor_name": "anna",
        "address": "192.0.2.1",
        "request_id": "r1",
        "action": "datasource.update",
        "entity_type": "datasource",
        "entity_id": ENTITY,
        "entity_name": "shop",
        "changes": {"name": ["a", "b"]},
    } | given


async def append(database: Database, **given: Any) -> None:
    async with database.write() as session:
        await AuditRepository(session).append(fields(**given), lambda: NOW)


async def checked(database: Database) -> Any:
    chain = Chain()
    async with database.read() as session:
        for line in await AuditRepository(session).after(0, 100_000):
            chain.add(line)
    return chain.finding()


def test_lines_follow_each_other(play: Play) -> None:
    """The first line follows 64 zeros and the next one the first; every database gives back what was hashed."""

    async def story(database: Database) -> None:
        for number in range(3):
            await append(database, entity_name=f"n{number}", changes={"ü": [None, {"x": [1, 2.5, True, None]}]})
        async with database.read() as session:
            lines = await AuditRepository(session).after(0, 10)
        assert [line["number"] for line in lines] == [1, 2, 3]
        assert lines[0]["previous_hash"] == GENESIS
        assert lines[1]["previous_hash"] == lines[0]["hash"]
        assert (await checked(database)).ok

    play(story)


@pytest.mark.parametrize(
    "statement",
    [
        update(AuditEntry).values(actor_name="nobody"),
        delete(AuditEntry),
        text("TRUNCATE audit_entries"),
    ],
    ids=["update", "delete", "truncate"],
)
def test_nobody_changes_or_removes_a_line(play: Play, url: str, statement: Any) -> None:
    """Whatever asks the database to change or remove a line is refused by the database itself."""
    if url.startswith("sqlite") and str(statement).startswith("TRUNCATE"):
        statement = text("DELETE FROM audit_entries")  # what SQLite has in its place

    async def story(database: Database) -> None:
        await append(database)
        with pytest.raises(DBAPIError, match="append-only"):
            async with database.write() as session:
                await session.execute(statement)
        assert (await checked(database)).lines == 1

    play(story)


def test_an_old_line_is_not_replaced(play: Play, url: str) -> None:
    """INSERT OR REPLACE is a deletion by another name, and a number exists once."""

    async def story(database: Database) -> None:
        await append(database)
        verb = "INSERT OR REPLACE" if url.startswith("sqlite") else "INSERT"
        async with database.read() as session:
            row = (await session.execute(text("SELECT * FROM audit_entries"))).mappings().one()
        values = dict(row) | {"actor_name": "nobody", "changes": "{}"}
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        with pytest.raises(DBAPIError):
            async with database.write() as session:
                await session.execute(text(f"{verb} INTO audit_entries ({names}) VALUES ({marks})"), values)
        assert (await checked(database)).ok

    play(story)


def test_many_writers_leave_no_gap(play: Play, url: str) -> None:
    """Forty transactions over two pools write at once, a third of them fails: numbers have no gap, the chain holds."""

    async def one(database: Database, number: int) -> None:
        async with database.write() as session:
            await session.execute(text("SELECT 1"))
            await asyncio.sleep(0.001 * (number % 5))

            async def last() -> None:
                await AuditRepository(session).append(fields(entity_name=f"n{number}"), lambda: NOW)

            at_the_end(session, last)
            if number % 3 == 0:
                raise LookupError

    async def story(database: Database) -> None:
        other = Database(url)
        try:
            writing = [one(database if number % 2 else other, number) for number in range(40)]
            ended = await asyncio.gather(*writing, return_exceptions=True)
        finally:
            await other.close()
        assert {type(end) for end in ended} == {type(None), LookupError}
        finding = await checked(database)
        assert (finding.ok, finding.lines) == (True, 26), finding

    play(story)


def test_what_is_hashed_is_what_comes_back(url: str) -> None:
    """Numbers, texts and depths of any kind, once made storable, are the same after the database had them."""
    upgrade(url)
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    tree = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.text(), st.lists(tree, max_size=2), max_size=3))
    def holds(changes: dict[str, Any]) -> None:
        async def story() -> None:
            database = Database(url)
            try:
                await append(database, changes=storable(changes))
                async with database.read() as session:
                    head = await AuditRepository(session).head()
                    (line,) = await AuditRepository(session).after(head.number - 1, 1)
            finally:
                await database.close()
            assert Chain(whole=False).add(line), line

        asyncio.run(story())

    holds()


def test_pages_come_from_an_index(play: Play) -> None:
    """Every filter, first and last page: neither the whole table is read nor anything sorted."""
    many = 3000

    async def story(database: Database) -> None:
        async with database.write() as session:
            for start in range(1, many, 500):
                lines = [_line(number, many) for number in range(start, start + 500)]
                await session.execute(insert(AuditEntry), lines)
            await session.execute(text("ANALYZE"))
        narrowed = [
            AuditFilters(),
            AuditFilters(actor_name="anna"),
            AuditFilters(action="datasource.update"),
            AuditFilters(entity_id=ENTITY),
            AuditFilters(entity_type="datasource"),
            AuditFilters(since=NOW, until=NOW + timedelta(seconds=2000)),
            AuditFilters(action="datasource.update", since=NOW, until=NOW + timedelta(seconds=2000)),
            AuditFilters(actor_name="anna", action="datasource.update"),
        ]
        for filters in narrowed:
            for page in (1, 2, 60):
                assert await _plan_is_good(database, filters, page)

    play(story)


def _line(number: int, many: int) -> dict[str, Any]:
    moment = NOW + timedelta(seconds=number)
    action = "datasource.update" if number % 2 else "execution.run"
    row = fields(action=action, entity_id=ENTITY if number % 2 else uuid.UUID(int=number))
    who = "anna" if number < many // 2 else "bert"
    return {"number": number, "created_at": moment, **row, "actor_name": who, "previous_hash": "", "hash": str(number)}


async def _plan_is_good(database: Database, filters: AuditFilters, page: int) -> bool:
    """Runs the page and explains what it asked for."""
    asked: list[tuple[str, Any]] = []
    is_sqlite = database.is_sqlite
    engine = database._reader.sync_engine

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        asked.append((statement, parameters))

    database.recent.clear()
    event.listen(engine, "before_cursor_execute", note)
    try:
        async with database.read() as session:
            found = await AuditRepository(session).listed(filters, page, 20)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    numbers = [row.number for row in found.data]
    assert numbers == sorted(numbers, reverse=True)
    async with database.read() as session:
        connection = await session.connection()
        if not is_sqlite:
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            await connection.exec_driver_sql("SET LOCAL enable_sort = off")
            await connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        for statement, parameters in asked:
            if "audit_entries" not in statement:
                continue
            explain = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN "
            rows = (await connection.exec_driver_sql(explain + statement, parameters)).all()
            plan = "\n".join(str(row[-1]) for row in rows)
            whole = "SCAN audit_entries\n" in plan + "\n" or "Seq Scan" in plan
            sorts = "count(" not in statement and "IN (" not in statement and ("TEMP B-TREE" in plan or "Sort" in plan)
            assert not whole, (statement, plan)
            assert not sorts, (statement, plan)
    return True


def test_the_list_of_everything_is_cut_by_number(play: Play) -> None:
    """The first, a middle, the last and no page of all lines; a filter has its own total."""

    async def story(database: Database) -> None:
        for number in range(25):
            await append(database, action="a" if number % 2 else "b")
        async with database.read() as session:
            audit = AuditRepository(session)
            pages = [await audit.listed(AuditFilters(), page, 10) for page in (1, 2, 3, 4)]
            odd = await audit.listed(AuditFilters(action="a"), 2, 10)
        assert [len(page.data) for page in pages] == [10, 10, 5, 0]
        assert [pages[0].data[0].number, pages[2].data[-1].number] == [25, 1]
        assert (odd.total, [row.number for row in odd.data]) == (12, [4, 2])
        assert document(vars(pages[0].data[0]))["number"] == 25

    play(story)
