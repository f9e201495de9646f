"""Sources with everything odd that a database, a file or a tree can hold."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from tests.servers import PostgresServer

EVERYTHING = r"""
CREATE EXTENSION IF NOT EXISTS plpgsql;
CREATE SCHEMA "Odd ""Schema"" $1;--";
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'happy 😀');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE span AS RANGE (subtype = int4);
CREATE COLLATION shout (provider = libc, locale = 'C');
CREATE SEQUENCE numbers START 41 INCREMENT 7 CYCLE MAXVALUE 1000;
CREATE TABLE people (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL COLLATE shout, mood mood DEFAULT 'happy 😀',
    born date, age positive, tags text[], data jsonb, raw bytea, home pair, years span,
    upper_name text GENERATED ALWAYS AS (upper(name)) STORED, number int DEFAULT nextval('numbers'), UNIQUE (name, born)
);
COMMENT ON TABLE people IS 'with ''quotes'', "names" and
two lines';
INSERT INTO people (name, born, age, tags, data, raw, home, years)
    SELECT 'name ' || n, date '1900-01-01' + n, n, ARRAY['a', NULL, 'b,c'], jsonb_build_object('n', n, 'x', E'\\u00e9'),
    decode(md5(n::text), 'hex'), ROW(n, 'x')::pair, int4range(n, n + 5)::text::span FROM generate_series(1, 2000) n;
INSERT INTO people (name) VALUES (E'tab\tnewline\nbackslash\\N carriage\r'), ('\.'), ('');
CREATE TABLE pets (id bigserial PRIMARY KEY, owner int REFERENCES people ON DELETE CASCADE DEFERRABLE, name varchar(7));
INSERT INTO pets (owner, name) SELECT n, 'p' || n FROM generate_series(1, 500) n;
CREATE TABLE "Odd ""Schema"" $1;--"."select ""from"" \" ("a b" int, "%s" text);
INSERT INTO "Odd ""Schema"" $1;--"."select ""from"" \" VALUES (1, 'x'), (NULL, NULL);
CREATE TABLE events (at timestamptz NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
INSERT INTO events SELECT timestamptz '2024-12-01 00:00Z' + n * interval '1 day', 'e' || n
    FROM generate_series(1, 600) n;
CREATE UNLOGGED TABLE fleeting (x float8); INSERT INTO fleeting VALUES ('NaN'), ('-Infinity'), (1e-300);
CREATE TABLE parent (x int); CREATE TABLE child (y int) INHERITS (parent); INSERT INTO child VALUES (1, 2);
CREATE INDEX people_data ON people USING gin (data); CREATE INDEX part ON people (born) WHERE age > 1000;
CREATE STATISTICS both_of ON name, born FROM people;
CREATE VIEW grown AS SELECT * FROM people WHERE age > 18 WITH CHECK OPTION;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS c FROM people; CREATE UNIQUE INDEX ON counted (c);
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS $fn$ SELECT n * 2 $fn$;
CREATE PROCEDURE nothing() LANGUAGE plpgsql AS $body$ BEGIN NULL; END $body$;
CREATE AGGREGATE add_up (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
CREATE CAST (pair AS text) WITH INOUT AS ASSIGNMENT;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $t$ BEGIN NEW.name := trim(NEW.name); RETURN NEW; END $t$;
CREATE TRIGGER trimmed BEFORE INSERT OR UPDATE ON pets FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE pets DISABLE TRIGGER trimmed;
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $t$ BEGIN NULL; END $t$;
CREATE EVENT TRIGGER watching ON ddl_command_end EXECUTE FUNCTION on_ddl();
CREATE RULE quiet AS ON DELETE TO events_rest DO INSTEAD NOTHING;
ALTER TABLE people ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON people USING (name = current_user);
CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple);
CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere OPTIONS (host 'h''');
CREATE FOREIGN TABLE remote (x int) SERVER far;
CREATE PUBLICATION news FOR TABLE people, pets;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
GRANT SELECT (name), UPDATE (mood) ON people TO PUBLIC;
SELECT setval('numbers', 300);
SELECT lo_from_bytea(4242, decode(repeat('00ff10', 90000), 'hex')), lo_from_bytea(4243, ''::bytea);
COMMENT ON LARGE OBJECT 4242 IS 'a large one';
"""


def everything(server: PostgresServer, name: str) -> str:
    """Makes a database with one of almost every kind of object that PostgreSQL knows."""
    return server.database(EVERYTHING, name=name)


def odd_database(path: Path) -> Path:
    """Makes a SQLite database with every type, odd names, a full-text index, triggers, views and a write-ahead log."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(
            """
            PRAGMA journal_mode=WAL; PRAGMA user_version=77; PRAGMA application_id=1234567;
            CREATE TABLE "od""d 'name'" ("a b" INTEGER PRIMARY KEY, t TEXT COLLATE NOCASE, r REAL, b BLOB, n NUMERIC);
            CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
            CREATE INDEX part ON "od""d 'name'" (t) WHERE r > 0;
            CREATE VIEW seen AS SELECT count(*) AS c FROM keyed;
            CREATE TRIGGER noted AFTER INSERT ON keyed BEGIN UPDATE keyed SET v = v || '!' WHERE k = new.k; END;
            CREATE VIRTUAL TABLE words USING fts5(text);
            INSERT INTO words VALUES ('the quick brown fox'), ('jumps over');
            INSERT INTO keyed VALUES ('k', 'v'), ('ключ', '値');
            """
        )
        chooser = random.Random(3)
        rows = [(f"t{n}\n'", n / 7, chooser.randbytes(500), None) for n in range(3000)]
        database.executemany("""INSERT INTO "od""d 'name'" (t, r, b, n) VALUES (?, ?, ?, ?)""", rows)
    return path


def odd_tree(root: Path) -> Path:
    """Makes a folder with everything that a file system can hold and this user may make."""
    (root / "inner" / "deep" / ("x" * 200) / ("y" * 200)).mkdir(parents=True)
    (root / "empty folder").mkdir(mode=0o500)
    (root / "empty file").touch()
    (root / "plain.txt").write_text("hello\n")
    (root / "big").write_bytes(random.Random(4).randbytes(3_000_000))
    for name in ("new\nline", "tab\t", "-rf", "*", "quote'\"", "back\\slash", "ünï", "\udcff\udcfe", " ", "...", "~"):
        (root / "inner" / name).write_text(name, errors="surrogateescape")
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o4755)
    (root / "nobody may").write_text("x")
    (root / "nobody may").chmod(0o000)
    (root / "link").symlink_to("plain.txt")
    (root / "dangling").symlink_to("../../outside/nothing\n")
    (root / "to a folder").symlink_to("inner")
    os.link(root / "plain.txt", root / "inner" / "same as plain")
    os.mkfifo(root / "pipe")
    with (root / "sparse").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
        file.truncate(9_000_000)
    with suppress(OSError):
        os.setxattr(root / "plain.txt", "user.note", b"\x00binary\xff")
    if os.geteuid() == 0:
        os.chown(root / "plain.txt", 12345, 23456)
        os.chown(root / "dangling", 54321, 1, follow_symlinks=False)
        os.chown(root / "inner", 3_000_000_000, 3_000_000_001)
    os.utime(root / "plain.txt", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "big", ns=(1, -5_000_000_000))
    os.utime(root / "link", ns=(7, 9_999_999_999_000_000_001), follow_symlinks=False)
    os.utime(root / "inner", ns=(1, 86_400 * 10**9))
    return root
