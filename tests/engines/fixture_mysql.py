"""A MariaDB server for the conformance suite, for both types: no MySQL server is to be had."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from dataguardian.domain.urls import parse_url
from tests.engines.conformance import EngineFixture
from tests.engines.mysql_tools import build_everything, content_of
from tests.mariadb import MariadbServer, quoted

ODD = ["-leading dash", "a=b c", "quo'te\"s\\ `and` spaces", "upper lower 日本", "mysql://x/y?z#", "%s{}$1", "a.b/c"]
FILLER = "SELECT seq AS id, REPEAT(MD5(seq), 4) AS text FROM seq_1_to_{}"


class MariadbFixture(EngineFixture):
    type: ClassVar[str] = "mariadb"

    def __init__(self) -> None:
        self._server = MariadbServer()
        self._numbers = itertools.count(1)
        self._large = ""

    def close(self) -> None:
        self._server.close()

    def sample(self) -> str:
        return self._url(build_everything(self._server))

    def large(self) -> str:
        create = f"CREATE TABLE t (PRIMARY KEY (id)) {FILLER.format(160_000)}"
        self._large = self._large or self._server.database(create)
        return self._url(self._large)

    def empty(self) -> str:
        return self._url(self._server.database())

    def target(self) -> str:
        return self._url(f"target_{next(self._numbers)}")

    def odd(self) -> Sequence[str]:
        return [self._odd(name) for name in ODD]

    def missing(self) -> str:
        return self._url("no-such-database")

    def content(self, address: str) -> Mapping[str, Any]:
        return content_of(self._server, parse_url(address).path[1:])

    def names(self) -> set[str]:
        users = self._server.execute(None, "SELECT CONCAT(User, '@', Host) FROM mysql.user")
        packet = self._server.execute(None, "SELECT CONCAT('packet ', @@GLOBAL.max_allowed_packet)")
        return self._server.databases() | {row[0] for row in [*users, *packet]}

    def ledger(self) -> str:
        # mariadb-dump takes tables by name: the filler lies between the two.
        name = self._server.database(
            "CREATE TABLE a_from (n BIGINT)",
            "INSERT INTO a_from VALUES (0)",
            f"CREATE TABLE m_filler {FILLER.format(80_000)}",
            "CREATE TABLE z_to (n BIGINT)",
            "INSERT INTO z_to VALUES (0)",
        )
        return self._url(name)

    @contextmanager
    def transfer(self, address: str) -> Iterator[Callable[[], None]]:
        with self._server.connect(parse_url(address).path[1:], autocommit=False) as connection:

            def once() -> None:
                with connection.cursor() as cursor:
                    cursor.execute("UPDATE a_from SET n = n - 1")
                    cursor.execute("UPDATE z_to SET n = n + 1")
                connection.commit()

            yield once

    def is_balanced(self, address: str) -> bool:
        rows = self._server.execute(parse_url(address).path[1:], "SELECT a_from.n, z_to.n FROM a_from, z_to")
        return len(rows) == 1 and rows[0][0] + rows[0][1] == 0 != rows[0][0]

    def kill(self) -> None:
        self._server.kill()

    def restart(self) -> None:
        self._server.start()

    def wrong_passwords(self) -> Sequence[str]:
        return [
            self._url("mysql", password="wrong-pässword"),
            self._url("mysql", password=None),
            self._url("mysql", user="nobody-here"),
        ]

    def reader(self, address: str) -> str:
        name, user = parse_url(address).path[1:], f"reader_{next(self._numbers)}"
        pattern = quoted(name.replace("_", "\\_"))
        self._server.execute(
            None,
            f"CREATE USER {user} IDENTIFIED BY 'read only'",
            f"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON {pattern}.* TO {user}",
            f"GRANT SELECT ON mysql.proc TO {user}",
            f"GRANT EXECUTE ON FUNCTION {quoted(name)}.twice TO {user}",  # a view that runs as its reader calls it
        )
        return self._url(name, user=user, password="read only")

    def unprivileged(self) -> Sequence[tuple[str, str]]:
        """What each lacks, and what names it."""
        privileges = ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "SELECT on mysql.proc")
        return [self._lacking(privilege, privileges) for privilege in privileges]

    def _lacking(self, missing: str, privileges: Sequence[str]) -> tuple[str, str]:
        name, user = self._server.database("CREATE TABLE t (x INT)"), f"lacking_{next(self._numbers)}"
        given = ", ".join(privilege for privilege in privileges[:-1] if privilege != missing)
        grant = f"GRANT {given} ON {name}.* TO {user}"
        self._server.execute(None, f"CREATE USER {user} IDENTIFIED BY 'lacking'", grant)
        if missing != privileges[-1]:
            self._server.execute(None, f"GRANT {privileges[-1].replace('on', 'ON')} TO {user}")
        return self._url(name, user=user, password="lacking"), missing

    def _odd(self, name: str) -> str:
        """A database, its user, password, tables and columns of that name."""
        server, number = self._server, next(self._numbers)
        database, user, password = f"{name} {number}", f"{name} user {number}", f"pw {name}"
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE USER %s@'127.0.0.1' IDENTIFIED BY %s", (user, password))
            cursor.execute("GRANT ALL ON *.* TO %s@'127.0.0.1'", (user,))
        server.database(name=database)
        server.execute(
            database,
            f"CREATE TABLE {quoted(name)} ({quoted(name)} INT, {quoted(name + ' 2')} VARCHAR(200) DEFAULT '`')",
            f"INSERT INTO {quoted(name)} ({quoted(name)}) VALUES (42)",
            f"CREATE VIEW {quoted(name + ' view')} AS SELECT {quoted(name)} FROM {quoted(name)}",
            f"CREATE TRIGGER {quoted(name)} BEFORE INSERT ON {quoted(name)} FOR EACH ROW SET @x = 1",
        )
        return self._url(database, user=user, password=password)

    def _url(self, *arguments: Any, **options: Any) -> str:
        return self._server.url(*arguments, scheme=self.type, **options)


class MysqlFixture(MariadbFixture):
    type: ClassVar[str] = "mysql"
    repeats: ClassVar[str | None] = "mariadb"


FIXTURES = [MariadbFixture, MysqlFixture]
