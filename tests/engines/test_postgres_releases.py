"""PostgreSQL 15 to 18, each with its own client programs: the same stories on every release."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataguardian.engines.base import DumpOptions
from tests.engines.conformance import dump, engine_at, restore
from tests.engines.postgres_tools import build_everything, checksums, properties_of, schema_of
from tests.servers import PostgresServer

RELEASES = [15, 16, 17, 18]
NEWS = {
    15: "CREATE TABLE news (a int, b int, UNIQUE NULLS NOT DISTINCT (a)); CREATE PUBLICATION n FOR TABLE news (a)",
    16: "CREATE TABLE news (a text STORAGE EXTERNAL, b int); INSERT INTO news VALUES ('a', 0b1010), ('b', 1_000)",
    17: "CREATE TABLE news (a int GENERATED ALWAYS AS IDENTITY) PARTITION BY RANGE (a);"
    " CREATE TABLE news_1 PARTITION OF news DEFAULT; INSERT INTO news DEFAULT VALUES",
    18: "CREATE TABLE news (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL, c int NOT NULL, p int4range,"
    " CONSTRAINT k PRIMARY KEY (c, p WITHOUT OVERLAPS)); INSERT INTO news VALUES (1, DEFAULT, 3, '[1,2)')",
}
ENCODINGS = [("LATIN1", "é"), ("EUC_JP", "日本"), ("SQL_ASCII", "plain")]


@pytest.fixture(params=RELEASES, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    made = PostgresServer(request.param, Path(tempfile.mkdtemp(prefix="dg-postgres-")))
    yield made
    made.close()


def test_everything_and_what_is_new(server: PostgresServer) -> None:
    """Every kind of object, what the release brought, and the database's own properties come back the same."""
    name = build_everything(server)
    if server.major == 18:
        server.execute(name, "CREATE EXTENSION btree_gist")
    server.execute(
        name, NEWS[server.major], f"ALTER DATABASE {name} SET work_mem TO '8MB'", f"COMMENT ON DATABASE {name} IS 'sö'"
    )
    source = engine_at(server.url(name))
    next(iter(source.dump(DumpOptions())))
    assert {tool.version.split(".")[0] for tool in source.tools} == {str(server.major)}
    assert source.server_version.split(".")[0] == str(server.major)
    target = f"{name}_copy"
    assert restore(server.url(target), dump(server.url(name))) == []
    assert schema_of(server, target) == schema_of(server, name)
    assert checksums(server, target) == checksums(server, name)
    assert properties_of(server, target) == properties_of(server, name)


def test_encodings(server: PostgresServer) -> None:
    """Databases that are not UTF-8 come back with their encoding and every letter."""
    for encoding, text in ENCODINGS:
        name = server.database(options=f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
        server.execute(name, f'CREATE TABLE "{text} t" AS SELECT \'{text}\'::text AS "{text}"')
        restore(server.url(f"{name}_copy"), dump(server.url(name)))
        query = "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
        assert server.execute(f"{name}_copy", query) == [(encoding,)]
        assert server.execute(f"{name}_copy", f'SELECT "{text}" FROM "{text} t"') == [(text,)]


@pytest.mark.parametrize(("there", "here"), [(15, 18), (18, 15), (16, 17)])
def test_a_cluster_of_another_release(
    fresh_postgres: Callable[[int], PostgresServer], tmp_path: Path, there: int, here: int
) -> None:
    """A server with roles, memberships and a tablespace goes onto one of another release, newer or older."""
    source, target = fresh_postgres(there), fresh_postgres(here)
    space = Path(tempfile.mkdtemp(prefix="dg-space-"))
    space.chmod(0o777)
    source.execute(
        "postgres",
        "CREATE ROLE \"the boss\" LOGIN PASSWORD 'b'",
        "CREATE ROLE crew",
        'GRANT crew TO "the boss" WITH ADMIN OPTION',
        f"CREATE TABLESPACE fast OWNER \"the boss\" LOCATION '{_owned(source, space)}'",
    )
    source.database("CREATE TABLE t AS SELECT 1 AS x", name="shop", options='OWNER "the boss" TABLESPACE fast')
    streams = dump(source.url())
    cautions = engine_at(target.url()).cautions(streams)
    assert len(cautions) == (len(streams) if there > here else 0)
    warnings = restore(target.url(), streams)
    assert warnings == ["role 'postgres' exists on the target and was left as it is"]
    where = "SELECT spcname FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = 'shop'"
    assert target.execute("postgres", where) == [("fast",)]
    assert checksums(target, "shop") == checksums(source, "shop")
    member = "SELECT admin_option FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE rolname = 'the boss'"
    assert target.execute("postgres", member) == [(True,)]


def _owned(server: PostgresServer, folder: Path) -> Path:
    """Gives a folder to the user that the server runs as."""
    owner = server.folder.stat()
    os.chown(folder, owner.st_uid, owner.st_gid)
    return folder
