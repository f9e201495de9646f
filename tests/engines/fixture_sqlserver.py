"""A real SQL Server for the conformance suite: the one that DATAGUARDIAN_TEST_SQLSERVER_URL names.

No package brings one, so without the variable these tests are skipped by name; the wire, the reading of a peer and
every restore against a double are tested without it. The independent looks are python-tds's.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytds
import pytest

from dataguardian.domain.urls import parse_url
from tests.engines.conformance import EngineFixture

VARIABLE = "DATAGUARDIAN_TEST_SQLSERVER_URL"

MODE = "SELECT current_setting('babelfishpg_tsql.migration_mode')"

HERE = Path(__file__).parent
EVERY_TYPE = HERE / "sqlserver_types.sql"
EVERY_OBJECT = HERE / "sqlserver_objects.sql"
"""Servers differ in what they have; what one refuses of these is left out of its sample."""


def statements(file: Path) -> list[str]:
    return [piece.strip() for piece in file.read_text(encoding="utf-8").split("\nGO\n") if piece.strip()]


class SqlServerFixture(EngineFixture):
    type = "sqlserver"

    def __init__(self) -> None:
        address = os.environ.get(VARIABLE)
        if not address:
            pytest.skip(f"a SQL Server that reads and writes ({VARIABLE}=sqlserver://user:password@host:port/)")
        self.url = parse_url(address)
        self.numbers = itertools.count(1)
        self.made: list[str] = []
        self.logins: list[str] = []
        if self.is_babelfish and self.run("master", MODE)[0][0] == "single-db":
            pytest.skip("this Babelfish has one database only (migration_mode): nothing can be restored beside it")

    def close(self) -> None:
        for name in self.made:
            with suppress(pytds.Error):
                self.run("master", f"DROP DATABASE {bracketed(name)}")
        for login in self.logins:
            with suppress(pytds.Error):
                self.run("master", f"DROP LOGIN {bracketed(login)}")

    @cached_property
    def is_babelfish(self) -> bool:
        """Tells whether the server is Babelfish, whose known gaps are named where they matter."""
        with suppress(pytds.Error):
            return bool(self.run("master", "SELECT CAST(SERVERPROPERTY('babelfish') AS int)")[0][0])
        return False

    def connect(self, database: str) -> Any:
        return pytds.connect(
            dsn=self.url.host or "127.0.0.1",
            port=self.url.port or 1433,
            user=self.url.username or "sa",
            password=self.url.password.get_secret_value() if self.url.password else "",
            database=database,
            autocommit=True,
            login_timeout=10,
            timeout=120,
        )

    def run(self, database: str, *statements: str) -> list[Any]:
        rows: list[Any] = []
        with self.connect(database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                rows = list(cursor.fetchall()) if cursor.description else []
        return rows

    def address(self, name: str, *, user: str | None = None, password: str | None = None) -> str:
        secret = self.url.password.get_secret_value() if self.url.password else ""
        user, secret = user or self.url.username or "sa", secret if password is None else password
        host = f"{self.url.host or '127.0.0.1'}:{self.url.port or 1433}"
        return f"sqlserver://{quote(user, safe='')}:{quote(secret, safe='')}@{host}/{quote(name, safe='')}?method=tds"

    def new_name(self, text: str = "") -> str:
        name = f"dg{os.getpid()}_{next(self.numbers)}{text}"
        self.made.append(name)
        return name

    def database(self, *statements: str, text: str = "", refusable: Sequence[str] = ()) -> str:
        name = self.new_name(text)
        self.run("master", f"CREATE DATABASE {bracketed(name)}")
        with suppress(pytds.Error):
            self.run("master", f"ALTER DATABASE {bracketed(name)} SET ALLOW_SNAPSHOT_ISOLATION ON")
        for statement in statements:
            self.run(name, statement)
        for statement in refusable:
            with suppress(pytds.Error):
                self.run(name, statement)
        return name

    def sample(self) -> str:
        return self.address(self.database(*statements(EVERY_TYPE), refusable=statements(EVERY_OBJECT)))

    def large(self) -> str:
        fill = "INSERT INTO dbo.big (body) SELECT TOP (5000) REPLICATE(N'x', 2000)"
        fill += " FROM sys.all_columns a, sys.all_columns b"
        return self.address(
            self.database("CREATE TABLE dbo.big (id int IDENTITY(1,1) PRIMARY KEY, body nvarchar(2000))", fill, fill)
        )

    def empty(self) -> str:
        return self.address(self.database())

    def target(self) -> str:
        return self.address(self.new_name())

    def odd(self) -> Sequence[str]:
        names = ["-dash", "a b'c\"d", "]bracket[", "pct%41/é", "日本😀"]
        table, column = "[t ]]'\"%😀]", "[-c ]]'\"]"
        if self.is_babelfish:
            # It renames no databases whose names are no words, makes names small, does not know how a bracket is
            # written inside brackets, and its catalogue has names in a code page.
            names = ["_under", "nine9"]
            table, column = table.replace("]]", "").replace("😀", "é"), column.replace("]]", "")
        create = f"CREATE TABLE [dbo].{table} ({column} int, [ünï] nvarchar(20))"
        fill = f"INSERT INTO [dbo].{table} VALUES (1, N'ü😀'), (NULL, N'')"
        return [self.address(self.database(create, fill, text=text)) for text in names]

    def missing(self) -> str:
        return self.address("dg_no_such_database")

    def content(self, address: str) -> Mapping[str, Any]:
        name = parse_url(address).path[1:]
        found: dict[str, Any] = {}
        columns = self.run(
            name,
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, CHARACTER_MAXIMUM_LENGTH, NUMERIC_PRECISION,"
            " NUMERIC_SCALE, DATETIME_PRECISION, IS_NULLABLE, COLUMN_DEFAULT FROM INFORMATION_SCHEMA.COLUMNS"
            " ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION",
        )
        # Babelfish shows a view of the whole server in every database.
        columns = [row for row in columns if row[1] != "sysdatabases"]
        found["columns"] = [(*row[:-1], str(row[-1]).replace(name, "…")) for row in columns]
        for schema, table in {(row[0], row[1]) for row in columns}:
            own = [row for row in columns if (row[0], row[1]) == (schema, table)]
            select = ", ".join(_shown(bracketed(row[2]), row[3]) for row in own)
            rows = self.run(name, f"SELECT {select} FROM {bracketed(schema)}.{bracketed(table)}")
            found[f"rows of {schema}.{table}"] = sorted(repr(tuple(row)) for row in rows)
        for view, key in {
            "sys.objects WHERE is_ms_shipped = 0": "CONCAT(SCHEMA_NAME(schema_id), '.', name, '|', type)",
            "INFORMATION_SCHEMA.TABLE_CONSTRAINTS": "CONSTRAINT_NAME + '|' + CONSTRAINT_TYPE + '|' + TABLE_NAME",
            "INFORMATION_SCHEMA.CHECK_CONSTRAINTS": "CONSTRAINT_NAME + '|' + CHECK_CLAUSE",
            "INFORMATION_SCHEMA.SEQUENCES": "CONCAT(SEQUENCE_NAME, '|', START_VALUE, '|', INCREMENT)",
            "sys.sql_modules": "definition",
            "sys.indexes WHERE name IS NOT NULL AND object_id IN (SELECT object_id FROM sys.tables)": "name",
        }.items():
            with suppress(pytds.Error):
                found[view] = sorted(str(row[0]) for row in self.run(name, f"SELECT {key} FROM {view}"))
        if self.is_babelfish:
            self._forget_what_babelfish_does_not_keep(found)
        return found

    def _forget_what_babelfish_does_not_keep(self, found: dict[str, Any]) -> None:
        """It adds a hash to the names of indexes and a number to those of defaults, and counts those of table types'
        tables.
        """
        made_up = re.compile(r"[0-9a-f]{16,}$|(?<=DF_)\w+_\d+|(?<=numberlist)_[^|]*")
        for view, shown in found.items():
            if view.startswith(("sys.indexes", "sys.objects", "INFORMATION_SCHEMA.TABLE_CONSTRAINTS")):
                found[view] = sorted(made_up.sub("", name) for name in shown)

    def names(self) -> set[str]:
        """Those of this process: other tests use the same server meanwhile."""
        names = {row[0] for row in self.run("master", "SELECT name FROM sys.databases")}
        return {name for name in names if name.startswith(f"dg{os.getpid()}_")}

    def ledger(self) -> str:
        table = (
            "CREATE TABLE dbo.{} (id int NOT NULL PRIMARY KEY, balance int NOT NULL, filling nvarchar(2000) NOT NULL)"
        )
        fill = (
            "INSERT INTO dbo.{} SELECT n, 100, REPLICATE(N'f', 1500) FROM (SELECT TOP (2000) ROW_NUMBER() OVER"
            " (ORDER BY a.object_id) AS n FROM sys.all_columns a, sys.all_columns b) AS numbers"
        )
        names = ("accounts_a", "accounts_z")
        return self.address(self.database(*(part.format(name) for name in names for part in (table, fill))))

    @contextmanager
    def transfer(self, address: str) -> Iterator[Callable[[], None]]:
        turn = itertools.count(1)
        with self.connect(parse_url(address).path[1:]) as connection, connection.cursor() as cursor:

            def move() -> None:
                number = next(turn) % 2000 + 1
                cursor.execute(
                    f"BEGIN TRANSACTION; UPDATE dbo.accounts_a SET balance = balance - 1 WHERE id = {number};"
                    f" UPDATE dbo.accounts_z SET balance = balance + 1 WHERE id = {number}; COMMIT TRANSACTION"
                )

            yield move

    def is_balanced(self, address: str) -> bool:
        pairs = "dbo.accounts_a a JOIN dbo.accounts_z z ON z.id = a.id"
        query = f"SELECT COUNT(*) FROM {pairs} WHERE a.balance + z.balance = 200"
        return bool(self.run(parse_url(address).path[1:], query)[0][0] == 2000)

    def kill(self) -> None:
        pytest.skip("the server of the address is not ours to kill; the double's connections are cut instead")

    def restart(self) -> None:
        raise AssertionError

    def wrong_passwords(self) -> Sequence[str]:
        return [
            self.address("master", password="wrong password"),
            self.address("master", password=""),
            self.address("master", user="nobody_here"),
        ]

    def login(self, database: str, *grants: str) -> str:
        name, password = f"dgl{os.getpid()}_{next(self.numbers)}", "Pä5s]'\"w/@:#%&x"
        try:
            literal = "N'" + password.replace("'", "''") + "'"
            self.run("master", f"CREATE LOGIN {bracketed(name)} WITH PASSWORD = {literal}")

            self.logins.append(name)
            self.run(database, f"CREATE USER {bracketed(name)} FOR LOGIN {bracketed(name)}")
            for grant in grants:
                self.run(database, grant.format(bracketed(name)))
        except pytds.Error as error:
            pytest.skip(f"this server makes no such login: {error}")
        return self.address(database, user=name, password=password)

    def reader(self, address: str) -> str:
        database = parse_url(address).path[1:]
        return self.login(database, "ALTER ROLE db_datareader ADD MEMBER {}", "GRANT VIEW DEFINITION TO {}")

    def unprivileged(self) -> Sequence[tuple[str, str]]:
        database = parse_url(self.sample()).path[1:]
        return [
            (self.login(database, "GRANT VIEW DEFINITION TO {}"), "SELECT"),
            (self.login(database, "ALTER ROLE db_datareader ADD MEMBER {}"), "VIEW DEFINITION"),
        ]


def bracketed(name: str) -> str:
    return f"[{name.replace(']', ']]')}]"


def _shown(column: str, data_type: str) -> str:
    """Types that python-tds would round or does not know, as the server writes them."""
    if data_type in ("time", "datetime2", "datetimeoffset"):
        return f"CONVERT(varchar(40), {column}, 121)"
    if data_type in ("xml", "ntext", "sql_variant"):
        return f"CONVERT(nvarchar(max), {column})"
    if data_type in ("hierarchyid", "geometry", "geography", "image"):
        return f"CONVERT(varbinary(max), {column})"
    return column


FIXTURES = [SqlServerFixture]
