"""A part of a database: schemas and tables that --include and --exclude choose."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from dataguardian.domain.errors import RestoreFailedError, UsageError
from dataguardian.engines.base import DumpOptions
from tests.engines.conformance import counted, dump, engine_at, restore
from tests.engines.postgres_tools import build_everything, checksums
from tests.servers import PostgresServer

SHOP = """
CREATE EXTENSION hstore; CREATE SCHEMA shop; CREATE SCHEMA audit; CREATE SCHEMA "Odd ""one.x";
CREATE TYPE shop.mood AS ENUM ('good'); CREATE FUNCTION shop.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE shop.customer (id serial PRIMARY KEY, mood shop.mood DEFAULT 'good', n int DEFAULT shop.one());
CREATE TABLE shop.orders (id int PRIMARY KEY, customer int REFERENCES shop.customer);
CREATE VIEW shop.seen AS SELECT * FROM shop.orders;
CREATE TABLE audit.log (id int); CREATE TABLE audit.log_2025 (h hstore); CREATE TABLE public.log (id int);
CREATE TABLE public.plain (id serial, x text);
CREATE TABLE "Odd ""one.x"."T*b.l" (x int); CREATE TABLE public."Log" (x int);
INSERT INTO shop.customer DEFAULT VALUES; INSERT INTO shop.orders VALUES (1, 1); INSERT INTO audit.log VALUES (1);
INSERT INTO audit.log_2025 VALUES ('a=>1'); INSERT INTO public.log VALUES (1), (2);
INSERT INTO "Odd ""one.x"."T*b.l" VALUES (7);
INSERT INTO public.plain (x) VALUES ('a'); SELECT lo_create(77); CREATE PUBLICATION p FOR TABLE shop.orders;
"""
ALL = {
    "shop.customer", "shop.orders", "audit.log", "audit.log_2025", "public.log", "public.plain", "public.Log",
    'Odd "one.x.T*b.l',
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(postgres17: PostgresServer) -> str:
    return postgres17.database(SHOP)


def restored(server: PostgresServer, source: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> str:
    streams = dump(server.url(source), DumpOptions(include=include, exclude=exclude))
    name = f"{server.database()}_part"
    restore(server.url(name), streams)
    return name


@pytest.mark.parametrize(
    ("include", "exclude", "tables"),
    [
        (("shop",), (), {"shop.customer", "shop.orders"}),
        (("shop.*",), (), {"shop.customer", "shop.orders"}),
        (("audit.log",), (), {"audit.log"}),
        (("log",), (), {"audit.log", "public.log"}),
        (("audit.log*",), ("audit.log",), {"audit.log_2025"}),
        (("audit", "public.plain"), (), {"audit.log", "audit.log_2025", "public.plain"}),
        (('"Odd ""one.x"."T*b.l"',), (), {'Odd "one.x.T*b.l'}),
        (('"Odd ""one.x"',), (), {'Odd "one.x.T*b.l'}),
        (("?udit",), (), {"audit.log", "audit.log_2025"}),
        (("Log",), (), {"public.Log"}),
        ((), ("audit",), ALL - {"audit.log", "audit.log_2025"}),
        ((), ("log", "Log"), ALL - {"audit.log", "public.log", "public.Log"}),
        ((), ("public.plain",), ALL - {"public.plain"}),
        ((), ("shop.orders", "shop.seen"), ALL - {"shop.orders"}),
        ((), ("nothing-like-this",), ALL),
    ],
)
def test_what_comes_back(
    postgres17: PostgresServer, shop: str, include: tuple[str, ...], exclude: tuple[str, ...], tables: set[str]
) -> None:
    """What was chosen is restored into an empty database, with its rows, and nothing else."""
    name = restored(postgres17, shop, include, exclude)
    assert set(counted(postgres17.url(name))) == tables
    before, after = checksums(postgres17, shop), checksums(postgres17, name)
    assert {key: after[key] for key in tables} == {key: before[key] for key in tables}


@pytest.mark.parametrize(
    ("include", "exclude", "words"),
    [
        (("shop.orders",), (), "table shop.orders needs table shop.customer"),
        (("shop.customer",), (), "needs function shop.one"),
        ((), ("shop.customer",), "table shop.orders needs table shop.customer"),
        ((), ("shop.orders",), "view shop.seen needs table shop.orders"),
        (("no-such-table",), (), "no schema and no table"),
        (("a.b.c",), (), "not a pattern"),
        (("",), (), "not a pattern"),
        ((".x",), (), "not a pattern"),
    ],
)
def test_what_could_not_be_restored_is_refused(
    postgres17: PostgresServer, shop: str, include: tuple[str, ...], exclude: tuple[str, ...], words: str
) -> None:
    """Patterns that tear apart what belongs together, or that mean nothing, are refused before the dump."""
    with pytest.raises(UsageError, match=words) as caught:
        dump(postgres17.url(shop), DumpOptions(include=include, exclude=exclude))
    assert caught.value.hint


def test_a_part_by_hand(postgres17: PostgresServer, shop: str) -> None:
    """The command in the manifest restores a part with stock programs alone."""
    options = DumpOptions(include=("audit.log",))
    (stream,) = dump(postgres17.url(shop), options)
    assert any("only what was included" in warning for warning in stream.warnings)
    target = postgres17.database()
    with next(engine_at(postgres17.url(shop)).dump(options)) as opened:
        command = opened.restore_by_hand[0].replace(f"--dbname={shop}", f"--dbname={target}")
    environment = postgres17.environment() | {"PATH": f"{postgres17.bin}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", command], input=stream.data, check=True, env=environment)
    assert counted(postgres17.url(target)) == {"audit.log": 1}


def test_a_part_into_an_empty_database_of_ours(postgres17: PostgresServer, shop: str) -> None:
    """Somebody who may not create databases restores a part into an empty one; a failure leaves it empty."""
    user = f"part_{shop}"
    postgres17.execute("postgres", f"CREATE ROLE {user} LOGIN PASSWORD 'x'")
    target = postgres17.database(options=f"OWNER {user}")
    (stream,) = dump(postgres17.url(shop), DumpOptions(include=("audit.log",)))
    with pytest.raises(RestoreFailedError):  # the table's owner is somebody else
        restore(postgres17.url(target, user=user, password="x"), [stream])
    assert postgres17.execute(target, "SELECT nspname FROM pg_namespace WHERE nspname = 'audit'") == []


def test_everything_but_one_schema(postgres17: PostgresServer) -> None:
    """A database with every kind of object comes back without the schema that was left out."""
    name = build_everything(postgres17)
    postgres17.execute(name, "DROP SUBSCRIPTION gone", "CREATE SCHEMA scrap CREATE TABLE big (x int)")
    copy = restored(postgres17, name, (), ("scrap",))
    after = checksums(postgres17, copy)
    assert after == {key: value for key, value in checksums(postgres17, name).items() if key != "scrap.big"}


def test_databases_of_a_server(fresh_postgres: Callable[[int], PostgresServer]) -> None:
    """For a whole server, patterns choose databases, and what is inside of them."""
    server = fresh_postgres(17)
    for name in ("shop", "test_1", "test_2", "a.b"):
        server.database("CREATE TABLE t (x int); CREATE SCHEMA audit; CREATE TABLE audit.log (x int)", name=name)

    def tables(include: tuple[str, ...], exclude: tuple[str, ...]) -> dict[str, int]:
        streams = dump(server.url(), DumpOptions(include=include, exclude=exclude))
        return {stream.name: stream.data.count(b"CREATE TABLE ") for stream in streams}

    both = 2
    with pytest.raises(UsageError, match="'shop' is named, and the patterns leave it out"):
        dump(server.url(), DumpOptions(exclude=("sh*",), streams=("shop",)))
    assert tables(("shop",), ()) == {"globals": 0, "shop": both}
    assert tables(("shop.audit", "test_*"), ("test_2",)) == {"globals": 0, "shop": 1, "test_1": both}
    assert tables(('"a.b"', "shop"), ("shop.audit.log",)) == {"globals": 0, "a.b": both, "shop": 1}
    with pytest.raises(UsageError, match="chooses no database"):
        tables(("nothing",), ())
