from __future__ import annotations

import itertools
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dataguardian.domain.errors import (
    AuthenticationError,
    DamagedPartError,
    DumpFailedError,
    IntegrityError,
    MissingToolError,
    NotAllowedError,
    NotFoundError,
    RestoreFailedError,
    TargetInUseError,
    TargetNotEmptyError,
    UnreachableError,
    UsageError,
)
from dataguardian.domain.urls import parse_url
from dataguardian.engines.base import DumpOptions, RestoreOptions
from dataguardian.engines.postgres import PostgresEngine, tools, validate
from dataguardian.engines.postgres.globals import split_statements
from dataguardian.engines.registry import build_engine, engine_config
from dataguardian.engines.tools import ToolSet
from tests.conftest import require_tool
from tests.engines.conformance import CHUNK_BYTES, Kept, dump
from tests.engines.postgres_tools import (
    EVERYTHING,
    ROLE,
    build_everything,
    checksums,
    properties_of,
    schema_of,
)
from tests.servers import PASSWORD, PostgresServer, free_port

EXACT_NAMES = ["a=b", "postgresql://x", ".."]  # the contract's stories have more, each with a number behind it


def engine(url: str) -> PostgresEngine:
    built = build_engine(engine_config(parse_url(url)))
    assert isinstance(built, PostgresEngine)
    return built


def restore(url: str, streams: list[Kept], *, drop_existing: bool = False) -> PostgresEngine:
    target = engine(url)
    options = RestoreOptions(drop_existing=drop_existing)
    target.prepare_restore([(stream.name, stream.kind) for stream in streams], options)
    target.restore(iter(streams), options)
    return target


def sample(server: PostgresServer, rows: int = 20_000) -> str:
    return server.database(
        f"CREATE TABLE t AS SELECT g AS id, repeat(md5(g::text), 5) AS text FROM generate_series(1, {rows}) g"
    )


def leftovers(server: PostgresServer) -> set[str]:
    return {name for name in server.databases() if re.search(r"_(dg|old)_[0-9a-f]{8}$", name)}


@pytest.fixture
def fake_tools(postgres17: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on PATH, whose programs are the real ones until a test writes another."""
    for name in tools.PROGRAMS:
        (tmp_path / name).symlink_to(postgres17.bin / name)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def replace_program(folder: Path, name: str, body: str) -> Path:
    """Puts a shell script in a program's place, which answers --version as the real one does."""
    real = (folder / name).resolve()
    (folder / name).unlink()
    script = f'#!/bin/sh\n[ "$1" = --version ] && exec {real} --version\nREAL={real}\n{body}\n'
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    return real


@pytest.fixture
def everything(postgres17: PostgresServer) -> str:
    return build_everything(postgres17)


def test_every_object_type_survives(postgres17: PostgresServer, everything: str) -> None:
    """A database with every kind of object comes back the same, by pg_dump's text and by checksums of rows."""
    copy = f"{everything}_copy"
    streams = dump(postgres17.url(everything))
    target = restore(postgres17.url(copy), streams)
    assert schema_of(postgres17, copy) == schema_of(postgres17, everything)
    assert checksums(postgres17, copy) == checksums(postgres17, everything)
    assert "100001" in checksums(postgres17, copy)
    assert engine(postgres17.url(copy)).inventory().items.items() == {
        (key.replace(everything, copy, 1), rows)
        for key, rows in engine(postgres17.url(everything)).inventory().items.items()
    }
    assert target.warnings == []
    assert leftovers(postgres17) == set()


def test_properties_of_the_database_survive(postgres17: PostgresServer, everything: str) -> None:
    """Owner, locale, comment, privileges, limits and settings of the database itself come back too."""
    copy = f"{everything}_copy"
    postgres17.execute(
        everything,
        f'ALTER DATABASE {everything} SET search_path TO "$user", shop, "Odd ""Schema"" -- ñandú \'"',
        f"ALTER DATABASE {everything} SET work_mem TO '8MB'",
        f"ALTER DATABASE {everything} SET shop.secret TO 'it''s; hush'",
        f'ALTER ROLE "odd ""role""; --" IN DATABASE {everything} SET statement_timeout TO \'9s\'',
        f"COMMENT ON DATABASE {everything} IS 'sö; \"it''s'",
        f'ALTER DATABASE {everything} OWNER TO "odd ""role""; --"',
        f"REVOKE ALL ON DATABASE {everything} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {everything} TO pg_monitor WITH GRANT OPTION",
        f"ALTER DATABASE {everything} CONNECTION LIMIT 7",
        f"ALTER DATABASE {everything} IS_TEMPLATE true",
    )
    streams = dump(postgres17.url(everything))
    assert "hush" not in str(streams[0].metadata), "a custom setting may be a secret"
    target = restore(postgres17.url(copy), streams)
    assert target.warnings == []
    assert properties_of(postgres17, copy) == properties_of(postgres17, everything)
    for name in (copy, everything):
        postgres17.execute(name, "DROP SUBSCRIPTION gone")
        postgres17.drop(name)


def test_a_restore_waits_for_the_disk_once(postgres17: PostgresServer) -> None:
    """Not after every statement of a database that does not count yet; whoever uses it later waits as ever."""
    mode = "SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'"
    name = postgres17.database(f"CREATE MATERIALIZED VIEW seen AS {mode}")
    restore(postgres17.url(f"{name}_copy"), dump(postgres17.url(name)))
    assert postgres17.execute(f"{name}_copy", "TABLE seen") == [("off", "database")], "filled while it was restored"
    (again,) = postgres17.execute(f"{name}_copy", mode)
    assert [again] == postgres17.execute(name, mode)
    assert again[1] != "database"


def test_what_was_dropped_stays_away(postgres17: PostgresServer) -> None:
    """A database without schema public, or without plpgsql, does not get them back."""
    name = postgres17.database("DROP SCHEMA public", "DROP EXTENSION plpgsql")
    restore(postgres17.url(f"{name}_copy"), dump(postgres17.url(name)))
    query = "SELECT nspname FROM pg_namespace WHERE nspname = 'public' UNION SELECT extname FROM pg_extension"
    assert postgres17.execute(f"{name}_copy", query) == []


@pytest.mark.parametrize("name", EXACT_NAMES)
def test_odd_database_names(postgres17: PostgresServer, name: str) -> None:
    """A database may be called what it likes: no name becomes an option, a connection string or a statement."""
    postgres17.database("CREATE TABLE t AS SELECT 42 AS x", name=name)
    try:
        streams = dump(postgres17.url(name))
        assert streams[0].name == name
        restore(postgres17.url(f"{name}2"), streams)
        restore(postgres17.url(name), streams, drop_existing=True)
        assert postgres17.execute(name, "TABLE t") == postgres17.execute(f"{name}2", "TABLE t") == [(42,)]
    finally:
        postgres17.drop(name)
        postgres17.drop(f"{name}2")


def test_by_hand(postgres17: PostgresServer) -> None:
    """The stock command that the manifest names restores the raw stream."""
    name = sample(postgres17, 100)
    with next(engine(postgres17.url(name)).dump(DumpOptions())) as opened:
        assert opened.restore_by_hand[0] == "pg_restore --create --exit-on-error --dbname=postgres"
    (stream,) = dump(postgres17.url(name))
    before = checksums(postgres17, name)
    postgres17.drop(name)
    postgres17.run("pg_restore", "--create", "--exit-on-error", "--dbname=postgres", data=stream.data)
    assert checksums(postgres17, name) == before


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"password": "wrong"}, AuthenticationError),
        ({"password": None}, AuthenticationError),
        ({"user": "nobody-here"}, AuthenticationError),
        ({"database": "no-such-database"}, NotFoundError),
    ],
)
def test_refused_before_anything(
    postgres17: PostgresServer, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], error: type[Exception]
) -> None:
    """A wrong password, user or database is told apart, without the password in the text."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with pytest.raises(error) as caught:
        dump(postgres17.url(**({"database": "postgres"} | change)))
    assert "wrong" not in str(caught.value)


def test_unreachable(postgres17: PostgresServer) -> None:
    """Nothing listens there: that is said, and the probe says so too."""
    url = f"postgresql://u@127.0.0.1:{free_port()}/x"
    with pytest.raises(UnreachableError):
        dump(url)
    assert engine(url).check().status == "unreachable"
    assert engine(postgres17.url("postgres", password="wrong")).check().status == "auth_failed"
    probe = engine(postgres17.url("postgres")).check()
    assert probe.status == "ok"
    assert probe.metadata["version"].startswith("17.")


def test_password_from_the_environment(postgres17: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """DATAGUARDIAN_PASSWORD is used, and inherited PG variables cannot lead anywhere else."""
    name = sample(postgres17, 10)
    hostile = {"PGHOSTADDR": "192.0.2.1", "PGOPTIONS": "-c search_path=x", "PGCLIENTENCODING": "LATIN1"}
    for key, value in (hostile | {"DATAGUARDIAN_PASSWORD": PASSWORD, "PGDATABASE": "nope", "PGPORT": "1"}).items():
        monkeypatch.setenv(key, value)
    (stream,) = dump(postgres17.url(name, password=None))
    validate(stream.kind, stream.metadata, stream.chunks())


def test_secrets_stay_out_of_command_lines(postgres17: PostgresServer) -> None:
    """While a dump runs, no command line on this machine holds the password, and the description never does."""
    name = sample(postgres17, 50_000)
    source = engine(postgres17.url(name))
    assert PASSWORD not in source._config.describe()
    with next(iter(source.dump(DumpOptions()))) as stream:
        stream.readinto(memoryview(bytearray(4096)))
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert any(b"pg_dump" in line and name.encode() in line for line in lines)
        assert not any(PASSWORD.encode() in line for line in lines)


def test_killed_backend_fails_the_dump(postgres17: PostgresServer) -> None:
    """The server ends the session in the middle: the dump fails, whatever was read before."""
    name = sample(postgres17, 200_000)
    buffer = memoryview(bytearray(64 * 1024))
    with next(iter(engine(postgres17.url(name)).dump(DumpOptions()))) as stream:
        assert stream.readinto(buffer) > 0
        ended = postgres17.execute(
            "postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        assert ended
        while stream.readinto(buffer):
            pass
        with pytest.raises(DumpFailedError, match="exit code 1"):
            stream.finish()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('"$REAL" "$@"; exit 3', "exit code 3"),
        ('"$REAL" "$@" | head -c 300000', "cannot read"),
        ('"$REAL" "$@" | head -c 20', "cannot read"),
        ("exit 0", "cannot read"),
        ("echo 'this is no archive'", "cannot read"),
    ],
)
def test_lying_dump_tool(postgres17: PostgresServer, fake_tools: Path, body: str, message: str) -> None:
    """A pg_dump that writes plausible bytes and fails, or ends well with half an archive, never makes a backup."""
    name = sample(postgres17)
    replace_program(fake_tools, "pg_dump", body)
    with pytest.raises(DumpFailedError, match=message):
        dump(postgres17.url(name))


def test_warnings_of_the_dump_tool_are_kept(postgres17: PostgresServer, fake_tools: Path) -> None:
    """What pg_dump says although it ends well reaches the user."""
    name = sample(postgres17, 10)
    replace_program(fake_tools, "pg_dump", 'echo "pg_dump: warning: circular" >&2; exec "$REAL" "$@"')
    (stream,) = dump(postgres17.url(name))
    assert stream.warnings == [f"{name}: pg_dump: warning: circular"]


def test_damage_leaves_the_target_alone(postgres17: PostgresServer) -> None:
    """A chunk that turns out damaged in the middle leaves the old database, and no temporary one."""
    name = sample(postgres17)
    (stream,) = dump(postgres17.url(name))
    before = checksums(postgres17, name)
    stream.damaged_after = 2
    with pytest.raises(DamagedPartError):
        restore(postgres17.url(name), [stream], drop_existing=True)
    assert checksums(postgres17, name) == before
    assert leftovers(postgres17) == set()


@pytest.mark.parametrize("cut", [10, 300_000])
def test_cut_archive_is_refused(postgres17: PostgresServer, cut: int) -> None:
    """Half an archive is neither valid nor restored."""
    name = sample(postgres17)
    (stream,) = dump(postgres17.url(name))
    stream.data = stream.data[:cut]
    with pytest.raises(IntegrityError):
        validate(stream.kind, stream.metadata, stream.chunks())
    with pytest.raises(RestoreFailedError):
        restore(postgres17.url(f"{name}_new"), [stream])
    assert f"{name}_new" not in postgres17.databases()
    assert leftovers(postgres17) == set()


def test_not_empty(postgres17: PostgresServer) -> None:
    """A database that holds anything is only replaced when the user says so; an empty one keeps its owner."""
    name = sample(postgres17, 10)
    streams = dump(postgres17.url(name))
    for statement in ("CREATE TYPE x AS ENUM ()", "CREATE SCHEMA x", "SELECT lo_create(0)", "CREATE EXTENSION hstore"):
        with pytest.raises(TargetNotEmptyError):
            restore(postgres17.url(postgres17.database(statement)), streams)
    empty = postgres17.database(options="OWNER pg_monitor")
    restore(postgres17.url(empty), streams)
    owner = f"SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = '{empty}'"
    assert postgres17.execute("postgres", owner) == [("pg_monitor",)]


def test_sessions_on_the_target(postgres17: PostgresServer) -> None:
    """Sessions on a database that is replaced are ended; without leave to do so the restore stops first."""
    name = sample(postgres17, 10)
    streams = dump(postgres17.url(name))
    with postgres17.connect(name) as session:
        restore(postgres17.url(name), streams, drop_existing=True)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    empty = postgres17.database()
    with postgres17.connect(empty) as session:
        with pytest.raises(TargetInUseError):
            restore(postgres17.url(empty), streams)
        assert session.execute("SELECT 1").fetchone() == (1,)
    postgres17.connect(empty).close()
    assert leftovers(postgres17) == set()


def test_connections_while_swapping(postgres17: PostgresServer) -> None:
    """Clients that come back at once, again and again, cannot hold up the swap."""
    name = sample(postgres17, 10)
    streams = dump(postgres17.url(name))
    stop = threading.Event()

    def knock() -> None:
        while not stop.is_set():
            try:
                postgres17.connect(name).close()
            except psycopg.OperationalError:
                time.sleep(0.005)

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        restore(postgres17.url(name), streams, drop_existing=True)
    finally:
        stop.set()
        thread.join()
    assert postgres17.execute(name, "SELECT count(*) FROM t") == [(10,)]


def test_held_by_a_prepared_transaction(postgres17: PostgresServer) -> None:
    """What would keep the old database from being dropped is found before anything is done."""
    name = sample(postgres17, 10)
    streams = dump(postgres17.url(name))
    with postgres17.connect(name, autocommit=False) as session:
        session.execute("CREATE TABLE held (x int)")
        session.execute("PREPARE TRANSACTION 'held-by-test'")
    with pytest.raises(TargetInUseError, match="held-by-test"):
        restore(postgres17.url(name), streams, drop_existing=True)
    postgres17.execute(name, "ROLLBACK PREPARED 'held-by-test'")


def test_failing_restore_names_the_cause(postgres17: PostgresServer, everything: str) -> None:
    """A role that is missing on the target fails the restore with what to do, and nothing stays behind."""
    (stream,) = dump(postgres17.url(everything))
    stream.data = stream.data.replace(b'odd ""role""; --', b'odd ""none""; --')
    with pytest.raises(RestoreFailedError, match="does not exist") as caught:
        restore(postgres17.url(f"{everything}_x"), [stream])
    assert "create role" in caught.value.hint
    assert "s3cr3t-mapping" not in str(caught.value)
    assert leftovers(postgres17) == set()


def test_role_without_createdb(postgres17: PostgresServer) -> None:
    """An ordinary owner restores into an empty database in one transaction, and may not replace a full one."""
    user = f"plain_{free_port()}"
    postgres17.execute("postgres", f"CREATE ROLE {user} LOGIN PASSWORD 'plain'")
    name = postgres17.database(options=f"OWNER {user}")
    source = postgres17.url(name, user=user, password="plain")
    with postgres17.connect(name, user=user, password="plain") as session:
        session.execute("CREATE TABLE t AS SELECT g AS id, repeat('x', 100) AS v FROM generate_series(1, 20000) g")
    (stream,) = dump(source)
    target = postgres17.url(empty := postgres17.database(options=f"OWNER {user}"), user=user, password="plain")
    stream.damaged_after = len(stream.data) // CHUNK_BYTES
    with pytest.raises(DamagedPartError):
        restore(target, [stream])
    assert engine(target).inventory().items == {}
    stream.damaged_after = None
    restore(target, [stream])
    assert checksums(postgres17, empty) == checksums(postgres17, name)
    with pytest.raises(NotAllowedError):
        restore(target, [stream], drop_existing=True)


def test_cluster(postgres17: PostgresServer, fresh_postgres: Any) -> None:
    """A whole server goes onto an empty one: roles with passwords, memberships, every database, postgres included."""
    source, target = fresh_postgres(17), fresh_postgres(17)
    source.execute(
        "postgres",
        'CREATE ROLE "odd ""role""; --" LOGIN PASSWORD \'sémi;colon\'',
        'COMMENT ON ROLE "odd ""role""; --" IS E\'two\nlines; -- \\\' "\'',
        "CREATE ROLE crew",
        'GRANT crew TO "odd ""role""; --" WITH ADMIN OPTION',
        "ALTER ROLE crew SET work_mem TO '9MB'",
        "CREATE TABLE in_postgres AS SELECT 1 AS x",
    )
    source.execute("template1", "CREATE TABLE in_template AS SELECT 2 AS x")
    source.database(name="-odd 'n\"ame", options="TEMPLATE template0 OWNER crew ENCODING LATIN1")
    source.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", data=EVERYTHING.encode(), database="postgres")
    streams = dump(source.url())
    assert [(stream.name, stream.kind) for stream in streams] == [
        ("globals", "sql"), ("-odd 'n\"ame", "pgdump"), ("postgres", "pgdump"), ("template1", "pgdump"),
    ]  # fmt: skip
    for stream in streams:
        validate(stream.kind, stream.metadata, stream.chunks())
    target.password = PASSWORD
    restored = restore(target.url(), streams)
    assert restored.warnings == ["role 'postgres' exists on the target and was left as it is"]
    assert target.databases() == source.databases()
    for name in sorted(source.databases() - {"template0"}):
        assert schema_of(target, name) == schema_of(source, name)
        assert checksums(target, name) == checksums(source, name)
        assert properties_of(target, name) == properties_of(source, name)
    roles = [_globals_text(server) for server in (source, target)]
    assert roles[0] == roles[1]
    with target.connect("postgres", user=ROLE, password="sémi;colon") as session:
        assert session.execute("SELECT current_user::text").fetchone() == (ROLE,)
    with pytest.raises(TargetNotEmptyError):
        restore(target.url(), streams)
    with pytest.raises(TargetInUseError, match="subscription"):
        restore(target.url(), streams, drop_existing=True)
    target.execute("postgres", "DROP SUBSCRIPTION gone")
    restore(target.url(), streams, drop_existing=True)
    assert target.databases() == source.databases()


def _globals_text(server: PostgresServer) -> str:
    """Roles without the superuser's own password, which each server salts differently."""
    text = server.run("pg_dumpall", "--globals-only").decode()
    return re.sub(r"(?m)^(\\(un)?restrict|ALTER ROLE postgres WITH) .*$", "", text)


def test_failed_cluster_restore_undoes_everything(fresh_postgres: Any) -> None:
    """When the last database of a cluster is damaged, neither roles nor databases of the restore remain."""
    source, target = fresh_postgres(17), fresh_postgres(17)
    source.execute("postgres", "CREATE ROLE newcomer", "CREATE ROLE other IN ROLE newcomer")
    source.database("CREATE TABLE t AS SELECT 1 AS x", name="shop", options="OWNER newcomer")
    streams = dump(source.url())
    streams[-1].damaged_after = 0
    before = target.databases()
    with pytest.raises(DamagedPartError):
        restore(target.url(), streams)
    assert target.databases() == before
    assert target.execute("postgres", "SELECT rolname FROM pg_roles WHERE rolname IN ('newcomer', 'other')") == []


def test_settings_of_every_role_are_told_to_stay_behind(fresh_postgres: Any) -> None:
    """pg_dumpall says nothing of what ALTER ROLE ALL has set: the warning names it, and keeps its value to itself."""
    server = fresh_postgres(17)
    server.execute("postgres", "ALTER ROLE ALL SET work_mem TO '9MB'", "ALTER ROLE ALL SET my.key TO 'geheim'")
    (stream,) = dump(server.url(), DumpOptions(streams=("postgres",)))[:1]
    assert stream.warnings == [
        "pg_dumpall leaves out what ALTER ROLE ALL has set: my.key, work_mem; set it by hand again"
    ]


def test_what_a_killed_restore_left_is_named(fresh_postgres: Any) -> None:
    """By the next restore to that database, and by a backup of the server, which leaves nothing out that may be data.
    What a restore makes for itself meanwhile is not told.
    """
    server = fresh_postgres(17)
    for name in ("shop_dg_0123abcd", "shop_old_0123abcd", "other_dg_0123abcd", "dataguardian"):
        server.database("CREATE TABLE t AS SELECT 1 AS x", name=name)
    told = restore(server.url("shop"), dump(server.url("dataguardian"))).warnings
    assert ["interrupted" in text for text in told] == [True, True]
    assert ["'shop_dg_0123abcd'" in told[0], "'shop_old_0123abcd'" in told[1]] == [True, True]
    streams = dump(server.url())
    warned = [text for text in streams[0].warnings if "restore" in text]
    assert len(warned) == 3
    told = restore(server.url(), streams, drop_existing=True).warnings
    assert len([text for text in told if "interrupted" in text]) == 2


def test_one_unreadable_database_fails_the_cluster(fresh_postgres: Any) -> None:
    """A role that may not connect to one of the databases gets no backup that lacks it."""
    server = fresh_postgres(17)
    server.database(name="closed")
    server.execute("postgres", "REVOKE CONNECT ON DATABASE closed FROM PUBLIC", "CREATE ROLE r LOGIN PASSWORD 'r'")
    with pytest.raises(NotAllowedError, match="closed"):
        dump(server.url(user="r", password="r"))


def test_what_only_a_superuser_can_dump(postgres17: PostgresServer, everything: str) -> None:
    """A dump by somebody who may only read says what it lacks: subscriptions, and the options of user mappings."""
    user = f"reader_{everything}"
    postgres17.execute(
        everything,
        f"CREATE ROLE {user} LOGIN BYPASSRLS PASSWORD 'r' IN ROLE pg_read_all_data",
        f"GRANT SELECT ON LARGE OBJECT 100001 TO {user}",
    )
    (stream,) = dump(postgres17.url(everything, user=user, password="r"))
    said = " ".join(stream.warnings)
    assert "options of 1 user mappings" in said
    assert "subscriptions" in said


def test_without_role_passwords(fresh_postgres: Any) -> None:
    """A role that may not read password hashes backs the rest up, with a warning."""
    server = fresh_postgres(17)
    server.execute("postgres", "CREATE ROLE r LOGIN PASSWORD 'r'")
    streams = dump(server.url(user="r", password="r"))
    assert any("without their passwords" in warning for warning in streams[0].warnings)
    assert b"SCRAM" not in streams[0].data


def test_client_matches_the_server(postgres16: PostgresServer, postgres18: PostgresServer) -> None:
    """The oldest client that is not older than the server is taken: 16 for 16, 18 for 18."""
    for server in (postgres16, postgres18):
        name = sample(server, 100)
        source = engine(server.url(name))
        for context in source.dump(DumpOptions()):
            assert context is not None
        assert {tool.version.split(".")[0] for tool in source.tools} == {str(server.major)}
        (stream,) = dump(server.url(name))
        restore(server.url(f"{name}_copy"), [stream])
        assert checksums(server, f"{name}_copy") == checksums(server, name)


def test_older_into_newer_and_back(postgres16: PostgresServer, postgres18: PostgresServer) -> None:
    """A dump goes into a newer server; into an older one too if nothing new is in it, after a warning."""
    name = sample(postgres16, 100)
    (stream,) = dump(postgres16.url(name))
    restore(postgres18.url(f"{name}_from16"), [stream])
    assert checksums(postgres18, f"{name}_from16") == checksums(postgres16, name)
    (newer,) = dump(postgres18.url(f"{name}_from16"))
    assert not engine(postgres18.url("postgres")).cautions([newer])
    (caution,) = engine(postgres16.url("postgres")).cautions([newer])
    assert "dumped from PostgreSQL 18" in caution
    restore(postgres16.url(f"{name}_from18"), [newer])
    assert checksums(postgres16, f"{name}_from18") == checksums(postgres16, name)
    postgres18.execute(f"{name}_from16", "CREATE TABLE v (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL)")
    (newer,) = dump(postgres18.url(f"{name}_from16"))
    with pytest.raises(RestoreFailedError, match="syntax error"):
        restore(postgres16.url("from18"), [newer])
    assert "from18" not in postgres16.databases()
    assert leftovers(postgres16) == set()


def test_server_older_than_every_client(postgres16: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only newer clients are installed, what they write for newer servers is left out on the way back."""
    newer = [tools for tools in tools.installed_sets() if tools.major == 17]
    monkeypatch.setattr(tools, "installed_sets", lambda _likely=None: newer)
    name = sample(postgres16)
    postgres16.execute(name, "SELECT lo_from_bytea(7, 'blob')", "CREATE UNIQUE INDEX ON t (id)")
    (stream,) = dump(postgres16.url(name))
    restore(postgres16.url(f"{name}_copy"), [stream])
    assert checksums(postgres16, f"{name}_copy") == checksums(postgres16, name)
    stream.damaged_after = 3
    with pytest.raises(DamagedPartError):
        restore(postgres16.url(f"{name}_x"), [stream])
    stream.damaged_after = None
    stream.data = stream.data.replace(b"CREATE UNIQUE INDEX", b"CREATE UNIQUE ENDIX")
    with pytest.raises(RestoreFailedError, match="syntax error"):
        restore(postgres16.url(f"{name}_x"), [stream])
    assert leftovers(postgres16) == set()


def test_no_client_new_enough(postgres18: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With only older clients the error says which were found and what to install."""
    old = ToolSet("/nowhere", "15.4", {})
    monkeypatch.setattr(tools, "installed_sets", lambda _likely=None: [old])
    with pytest.raises(MissingToolError, match=r"found only 15\.4") as caught:
        dump(postgres18.url("postgres"))
    assert "18" in caught.value.hint
    assert "install" in caught.value.hint


def test_what_doctor_says_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without clients every one is missing; with old ones, those that newer servers need; each with a command."""
    monkeypatch.setattr(tools, "installed_sets", lambda _likely=None: [])
    assert [program.name for program in tools.client_programs()] == list(tools.PROGRAMS)
    assert all(program.path is None and program.required and program.install for program in tools.client_programs())
    old = ToolSet("/nowhere", "15.4", {"pg_dump": "/nowhere/pg_dump"})
    monkeypatch.setattr(tools, "installed_sets", lambda _likely=None: [old])
    there, wanted = tools.client_programs()
    assert (there.path, there.version) == ("/nowhere/pg_dump", "15.4")
    assert (wanted.path, wanted.required) == (None, False)
    assert "newer than 15" in wanted.name
    assert "18" in wanted.install


def test_leaving_early_leaves_no_child(postgres17: PostgresServer) -> None:
    """A dump or restore that is left in the middle takes its children with it."""
    name = sample(postgres17, 50_000)
    with next(iter(engine(postgres17.url(name)).dump(DumpOptions()))) as stream:
        stream.readinto(memoryview(bytearray(4096)))
        assert _children()
    assert not _children()
    (stream_kept,) = dump(postgres17.url(name))
    stream_kept.damaged_after = 1
    with pytest.raises(DamagedPartError):
        restore(postgres17.url(f"{name}_copy"), [stream_kept])
    assert not _children()


def _children() -> list[str]:
    me = Path("/proc/self").resolve().name
    found = []
    for task in Path(f"/proc/{me}/task").iterdir():
        for pid in (task / "children").read_text().split():
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            found += [name] if name in ("pg_dump", "pg_restore", "psql", "pg_dumpall") else []
    return found


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://h/db?nonsense=1",
        "postgresql://h/db?sslmode=maybe",
        "postgresql://h:0/db",
        "postgresql://h/" + "x" * 64,
        "postgresql://%2Ftmp/db",
        "postgresql://h/%ff",
    ],
)
def test_bad_addresses(address: str) -> None:
    """An address that cannot mean anything is refused as wrong usage."""
    with pytest.raises(UsageError):
        engine_config(parse_url(address))


def test_socket(postgres17: PostgresServer) -> None:
    """A server is also reached through its socket, and the description leads back to it."""
    name = sample(postgres17, 10)
    url = f"postgresql://postgres@/{name}?host={postgres17.socket}"
    config = engine_config(parse_url(url.replace("@/", f":x@:{postgres17.port}/")))
    assert engine_config(parse_url(config.describe())).describe() == config.describe()
    secret = postgres17.url(name).split("@", 1)[0]
    assert engine(f"{secret}@:{postgres17.port}/{name}?host={postgres17.socket}").check().status == "ok"


def test_options_that_mean_nothing_are_refused(postgres17: PostgresServer) -> None:
    """Patterns are not silently ignored, and a cluster's backup does not fit one database."""
    with pytest.raises(UsageError):
        next(iter(engine(postgres17.url("postgres")).dump(DumpOptions(include=("x",)))))
    two = [("a", "pgdump"), ("b", "pgdump")]
    for streams in (two, [("globals", "sql")], [("x", "tar")]):
        with pytest.raises(UsageError):
            engine(postgres17.url("x")).prepare_restore(streams, RestoreOptions())


def test_statements_are_split_where_they_end() -> None:
    """Semicolons in literals, names and comments end nothing; psql's own commands are left out."""
    script = (
        "\\restrict abc\n-- a; b\nCREATE ROLE \"a;\"\"b\";\nCOMMENT ON ROLE x IS 'it''s; --no';\n"
        "ALTER ROLE x SET y TO E'\\';\\\\';\n"
    )
    found = list(split_statements(script))
    assert [statement for statement, _ in found] == [
        'CREATE ROLE "a;""b"',
        "COMMENT ON ROLE x IS 'it''s; --no'",
        "ALTER ROLE x SET y TO E'\\';\\\\'",
    ]
    assert 'a;"b' in found[0][1]
    assert "no" not in found[1][1]
    assert list(itertools.chain.from_iterable(names for _, names in found)).count("x") == 2


def test_tls(fresh_postgres: Any, tmp_path: Path) -> None:
    """A server that insists on TLS is dumped and restored with its certificate checked."""
    openssl = require_tool("openssl")
    server = fresh_postgres(17)
    data = server.folder / "data"
    key, certificate = tmp_path / "server.key", tmp_path / "server.crt"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    new = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*new, *subject], check=True, capture_output=True)
    owner = data.stat()
    for path in (key, certificate):
        (data / path.name).write_bytes(path.read_bytes())
        (data / path.name).chmod(0o600)
        os.chown(data / path.name, owner.st_uid, owner.st_gid)
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    server.execute("postgres", "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
    limit = time.monotonic() + 30
    while engine(server.url("postgres") + "?sslmode=require").check().status != "ok" and time.monotonic() < limit:
        time.sleep(0.1)
    name = server.database("CREATE TABLE t AS SELECT 1 AS x")
    verified = f"?sslmode=verify-full&sslrootcert={certificate}"
    streams = dump(server.url(name) + verified)
    restore(server.url(f"{name}_copy") + verified, streams)
    assert server.execute(f"{name}_copy", "TABLE t") == [(1,)]
    with pytest.raises(AuthenticationError):
        dump(server.url(name) + "?sslmode=disable")
    assert tools.tools_for(17, "TLS", tls=True).major == 17
