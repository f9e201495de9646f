"""Looking at PostgreSQL databases by means that are not DataGuardian's: stock pg_dump and SQL."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
from psycopg import sql

from tests.servers import PostgresServer

EVERYTHING = Path(__file__).with_name("everything.sql").read_text(encoding="utf-8")
ROLE = 'odd "role"; --'


def build_everything(server: PostgresServer) -> str:
    """Makes a database with every kind of object, and the role that some of them belong to."""
    roles = server.execute("postgres", "SELECT rolname FROM pg_roles")
    if (ROLE,) not in roles:
        server.execute("postgres", 'CREATE ROLE "odd ""role""; --"')
    name = server.database()
    contrib = server.execute(name, "SELECT count(*) FROM pg_available_extensions WHERE name = 'hstore'") == [(1,)]
    script = EVERYTHING if contrib else _without_contrib(EVERYTHING)
    server.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", data=script.encode(), database=name)
    return name


def _without_contrib(script: str) -> str:
    """For builds of a server that come without the extensions of PostgreSQL's contrib folder."""
    script = re.sub(r"(?m)^(CREATE EXTENSION|.*gin_trgm_ops).*$", "", script).replace("pairs hstore", "pairs text")
    return script.replace("CREATE SERVER", "CREATE FOREIGN DATA WRAPPER postgres_fdw; CREATE SERVER", 1)


def schema_of(server: PostgresServer, database: str) -> str:
    """pg_dump's own text of everything but data, without what differs between two runs."""
    text = server.run("pg_dump", "--schema-only", database=database).decode("utf-8", "surrogateescape")
    return re.sub(r"(?m)^\\(un)?restrict .*$", "", text)


def properties_of(server: PostgresServer, database: str) -> str:
    text = server.run("pg_dump", "--schema-only", "--create", "--exclude-schema=*", database=database).decode()
    text = text.replace(psycopg.sql.Identifier(database).as_string(None), "DATABASE").replace(database, "DATABASE")
    return re.sub(r"(?m)^\\(un)?restrict .*$", "", text)


def checksums(server: PostgresServer, database: str) -> dict[str, str]:
    """A checksum of every table's rows and every large object, by SQL alone."""
    found = {}
    with server.connect(database) as connection:
        tables = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
        ).fetchall()
        query = "SELECT md5(coalesce(string_agg(md5(t::text), '' ORDER BY md5(t::text)), '')) FROM {} t"
        for table in tables:
            row = connection.execute(sql.SQL(query).format(sql.Identifier(*table))).fetchone()
            assert row is not None
            found[".".join(table)] = row[0]
        sequences = connection.execute(
            "SELECT schemaname || sequencename, last_value::text FROM pg_sequences"
        ).fetchall()
        blobs = connection.execute("SELECT oid::text, md5(lo_get(oid)) FROM pg_largeobject_metadata").fetchall()
    return found | dict(sequences) | dict(blobs)
