"""A PostgreSQL 17 server for the conformance suite."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psycopg import sql

from dataguardian.domain.urls import parse_url
from tests.engines.conformance import EngineFixture
from tests.engines.postgres_tools import build_everything, checksums, schema_of
from tests.servers import PostgresServer

ODD = ["-leading dash", "a=b c", "quo'te\"s\\ and spaces", "ÜPPER lower 日本 🐘", "postgresql://x/y?z", "%s{}$1", ".."]
FILLER = "SELECT g AS id, repeat(md5(g::text), 3) AS text FROM generate_series(1, {}) g"


class PostgresFixture(EngineFixture):
    type = "postgres"

    def __init__(self) -> None:
        self._server = PostgresServer(17, Path(tempfile.mkdtemp(prefix="dg-postgres-")))
        self._numbers = itertools.count(1)
        self._large = ""

    def close(self) -> None:
        self._server.close()

    def sample(self) -> str:
        name = build_everything(self._server)
        # Neither can be had without being a superuser: test_postgres.py has them.
        self._server.execute(
            name, "DROP SUBSCRIPTION gone", 'DROP USER MAPPING FOR "odd ""role""; --" SERVER elsewhere'
        )
        return self._server.url(name)

    def large(self) -> str:
        if not self._large:
            self._large = self._server.database(f"CREATE TABLE t AS {FILLER.format(200_000)}")
            self._make_durable()
        return self._server.url(self._large)

    def empty(self) -> str:
        return self._server.url(self._server.database())

    def target(self) -> str:
        return self._server.url(f"target_{next(self._numbers)}")

    def odd(self) -> Sequence[str]:
        return [self._odd(name) for name in ODD]

    def missing(self) -> str:
        return self._server.url("no-such-database")

    def content(self, address: str) -> Mapping[str, Any]:
        name = parse_url(address).path[1:]
        if name not in self._server.databases():
            return {}
        return {"schema": schema_of(self._server, name), **checksums(self._server, name)}

    def names(self) -> set[str]:
        query = (
            "SELECT 'database ' || datname FROM pg_database UNION ALL SELECT 'role ' || rolname FROM pg_roles"
            " UNION ALL SELECT 'tablespace ' || spcname FROM pg_tablespace"
        )
        return {row[0] for row in self._server.execute("postgres", query)}

    def ledger(self) -> str:
        # pg_dump takes tables by name: the filler lies between the two.
        name = self._server.database(
            "CREATE TABLE a_from (n bigint); INSERT INTO a_from VALUES (0)",
            f"CREATE TABLE m_filler AS {FILLER.format(150_000)}",
            "CREATE TABLE z_to (n bigint); INSERT INTO z_to VALUES (0)",
        )
        self._make_durable()
        return self._server.url(name)

    @contextmanager
    def transfer(self, address: str) -> Iterator[Callable[[], None]]:
        with self._server.connect(parse_url(address).path[1:]) as connection:

            def once() -> None:
                with connection.transaction():
                    connection.execute("UPDATE a_from SET n = n - 1")
                    connection.execute("UPDATE z_to SET n = n + 1")

            yield once

    def is_balanced(self, address: str) -> bool:
        rows = self._server.execute(parse_url(address).path[1:], "SELECT a_from.n, z_to.n FROM a_from, z_to")
        return len(rows) == 1 and rows[0][0] + rows[0][1] == 0 != rows[0][0]

    def kill(self) -> None:
        self._server.kill()

    def restart(self) -> None:
        self._server.start()

    def wrong_passwords(self) -> Sequence[str]:
        server = self._server
        return [
            server.url("postgres", password="wrong-pässword"),
            server.url("postgres", password=None),
            server.url("postgres", user="nobody-here"),
        ]

    def reader(self, address: str) -> str:
        name, user = parse_url(address).path[1:], f"reader_{next(self._numbers)}"
        blobs = [oid for (oid,) in self._server.execute(name, "SELECT oid FROM pg_largeobject_metadata")]
        self._server.execute(
            name,
            f"CREATE ROLE {user} LOGIN BYPASSRLS PASSWORD 'read only' IN ROLE pg_read_all_data",
            *(f"GRANT SELECT ON LARGE OBJECT {oid} TO {user}" for oid in blobs),
        )
        return self._server.url(name, user=user, password="read only")

    def unprivileged(self) -> Sequence[tuple[str, str]]:
        """What each lacks, and what names it."""
        return [
            self._lacking("CREATE TABLE hidden (x int)", "", "hidden"),
            self._lacking("CREATE SCHEMA s; CREATE TABLE s.t (x int)", "GRANT SELECT ON s.t TO {}", "schema s"),
            self._lacking("CREATE SEQUENCE counter", "", "counter"),
            self._lacking("SELECT lo_create(4711)", "", "4711"),
            self._lacking(
                "CREATE TABLE veiled (x int); ALTER TABLE veiled ENABLE ROW LEVEL SECURITY",
                "GRANT SELECT ON veiled TO {}",
                "BYPASSRLS",
            ),
            self._lacking("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC", "", "CONNECT"),
        ]

    def _lacking(self, statement: str, grant: str, word: str) -> tuple[str, str]:
        user = f"lacking_{next(self._numbers)}"
        name = self._server.database()
        self._server.execute(
            name,
            statement.replace("{database}", name),
            f"CREATE ROLE {user} LOGIN PASSWORD 'lacking'",
            *([grant.format(user)] if grant else []),
        )
        return self._server.url(name, user=user, password="lacking"), word

    def _make_durable(self) -> None:
        """Else a killed server, which commits asynchronously here, takes along what it has acknowledged."""
        self._server.execute("postgres", "CHECKPOINT")

    def _odd(self, name: str) -> str:
        """A database, its owner, password, schema, table and column of that name."""
        server, number = self._server, next(self._numbers)
        database, role = f"{name} {number}", f"{name} role {number}"
        identifier = sql.Identifier(name)
        create_role = sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}")
        create_database = sql.SQL("CREATE DATABASE {} OWNER {}")
        with server.connect() as connection:
            connection.execute(create_role.format(sql.Identifier(role), sql.Literal(f"pw {name}")))
            connection.execute(create_database.format(sql.Identifier(database), sql.Identifier(role)))
        with server.connect(database, user=role, password=f"pw {name}") as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(identifier))
            connection.execute(
                sql.SQL("CREATE TABLE {} AS SELECT 42 AS {}").format(sql.Identifier(name, name), identifier)
            )
        return server.url(database, user=role, password=f"pw {name}")


FIXTURES = [PostgresFixture]
