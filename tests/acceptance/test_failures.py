"""What goes wrong around a run: servers, programs, disks. The right exit code, a message, and nothing left."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.comparing import sqlite_dump, tree
from tests.cli.program import Outcome, Program, finished, running, wait_for
from tests.conftest import missing
from tests.servers import PostgresServer

ROWS = "CREATE TABLE items AS SELECT n AS id, md5(n::text) || md5((n + 1)::text) AS name FROM generate_series(1, {}) n"
COUNT = "SELECT count(*), md5(string_agg(name, ',' ORDER BY id)) FROM items"
# Checked for every row as it is restored, so that there is time to do something evil.
SLOW = """
CREATE FUNCTION public.slow(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.01); RETURN true; END';
CREATE TABLE crawl (id int CHECK (public.slow(id))); INSERT INTO crawl SELECT generate_series(1, 300);
"""
CRAWL = ["--level", "19", "--part-size", "64KiB"]


def told(outcome: Outcome, code: int, error: str) -> str:
    """Checks a failure that was told as JSON; returns its message."""
    assert outcome.code == code, outcome
    assert outcome.json["error"] == error, outcome
    assert "Traceback" not in outcome.err + outcome.out
    return str(outcome.json["message"])


def assert_nothing_left(program: Program, outcome: Outcome) -> None:
    assert (program.stored, program.staged, running(outcome.mark)) == ([], [], {})
    assert program.listed() == []


def noise(path: Path, size_bytes: int, seed: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size_bytes))
    return path


@pytest.fixture
def big(postgres17: PostgresServer) -> Iterator[str]:
    """A database whose backup takes seconds with CRAWL."""
    name = postgres17.database(ROWS.format(300_000))
    yield name
    postgres17.drop(name)


def child_named(mark: str, name: str) -> int | None:
    """Returns the process id of a run's child program."""
    for pid in running(mark):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                return pid
        except OSError:
            continue
    return None


def crawling(program: Program, source: str) -> tuple[subprocess.Popen[str], str]:
    """Starts a backup that takes seconds, and waits until it stores parts."""
    process, mark = program.start("backup", source, program.storage, "--json", *CRAWL)
    wait_for(lambda: [path for path in program.stored if path.endswith(".zst")], "the first part")
    return process, mark


def test_the_server_ends_the_session_in_the_middle_of_a_dump(
    program: Program, postgres17: PostgresServer, big: str
) -> None:
    """pg_terminate_backend while the dump runs."""
    process, mark = crawling(program, postgres17.url(big))
    ended = postgres17.execute(
        "postgres",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{big}' AND query LIKE 'COPY%'",
    )
    assert ended == [(True,)]
    outcome = finished(process, mark)
    message = told(outcome, 1, "dump_failed")
    assert "pg_dump" in message
    assert "connection" in message
    assert_nothing_left(program, outcome)


def test_the_server_dies_in_the_middle_of_a_dump(
    program: Program, fresh_postgres: Callable[..., PostgresServer]
) -> None:
    """The whole server is gone at once."""
    server = fresh_postgres(17)
    name = server.database(ROWS.format(300_000))
    process, mark = crawling(program, server.url(name))
    server.stop()
    outcome = finished(process, mark)
    assert outcome.code in (1, 5)
    assert outcome.json["error"] in ("dump_failed", "unreachable")
    assert_nothing_left(program, outcome)


@pytest.mark.parametrize("victim", ["pg_dump", "pg_restore"])
def test_a_client_program_is_killed_in_the_middle_of_a_dump(
    program: Program, postgres17: PostgresServer, big: str, victim: str
) -> None:
    """kill -9 of the dump tool, or of the one that reads the archive in passing."""
    process, mark = crawling(program, postgres17.url(big))
    os.kill(wait_for(lambda: child_named(mark, victim), victim), signal.SIGKILL)
    outcome = finished(process, mark)
    told(outcome, 1, "dump_failed")
    assert_nothing_left(program, outcome)


def test_tar_is_killed_in_the_middle(program: Program, tmp_path: Path) -> None:
    """kill -9 of tar."""
    noise(tmp_path / "tree" / "big", 12_000_000)
    process, mark = crawling(program, f"files://{tmp_path}/tree")
    os.kill(wait_for(lambda: child_named(mark, "tar"), "tar"), signal.SIGKILL)
    outcome = finished(process, mark)
    assert "ended with code -9" in told(outcome, 1, "dump_failed")
    assert_nothing_left(program, outcome)


def fake(program: Program, name: str, real: Path, body: str, *neighbours: str) -> Path:
    """Puts a script first on PATH that answers --version as the real program does; returns what it touches."""
    folder = program.home / "fakes"
    folder.mkdir()
    for neighbour in neighbours:
        (folder / neighbour).symlink_to(real.parent / neighbour)
    fired = program.home / "fired"
    script = f'#!/bin/sh\n[ "$1" = --version ] && exec {real} --version\ntouch {fired}\n{body.format(real=real)}\n'
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    program.env["PATH"] = f"{folder}:/usr/bin:/bin"
    return fired


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{real} "$@"; exit 1', "exit code 1"),
        ('{real} "$@"; kill -9 $$', "exit code -9"),
        ('{real} "$@" | head -c 200000', "cannot read"),
        ('{real} "$@"; echo "pg_dump: error: out of memory" >&2; exit 7', "out of memory"),
        ("exit 0", "cannot read"),
    ],
    ids=["fails at the end", "is killed at the end", "cuts and succeeds", "explains itself", "writes nothing"],
)
def test_a_dump_tool_that_lies(program: Program, postgres17: PostgresServer, body: str, expected: str) -> None:
    """A first pg_dump on PATH that writes plausible bytes and fails, or that succeeds with half of them."""
    name = postgres17.database(ROWS.format(10_000))
    fired = fake(program, "pg_dump", postgres17.bin / "pg_dump", body, "pg_restore", "pg_dumpall", "psql")
    outcome = program.run("backup", postgres17.url(name), program.storage, "--json", "--part-size", "64KiB")
    assert fired.exists()
    assert expected in told(outcome, 1, "dump_failed")
    assert_nothing_left(program, outcome)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{real} "$@"; exit 2', "code 2"),
        ('{real} "$@"; exit 1', "code 1"),
        ('{real} "$@" | head -c 300000', "in the middle of the archive"),
        ("exit 0", "in the middle of the archive"),
        ('{real} "$@"; echo "tar: ./f: Read error at byte 0: Input/output error" >&2', "Input/output error"),
    ],
    ids=["fails at the end", "warns of nothing", "cuts and succeeds", "writes nothing", "complains and succeeds"],
)
def test_a_tar_that_lies(program: Program, tmp_path: Path, body: str, expected: str) -> None:
    """The same with tar."""
    noise(tmp_path / "tree" / "f", 1_000_000)
    real = shutil.which("tar", path="/usr/bin:/bin")
    assert real is not None
    fired = fake(program, "tar", Path(real), body)
    outcome = program.run("backup", f"files://{tmp_path}/tree", program.storage, "--json", "--part-size", "64KiB")
    assert fired.exists()
    assert expected in told(outcome, 1, "dump_failed")
    assert_nothing_left(program, outcome)


def test_a_storage_that_fills_up(program: Program, tmp_path: Path, small_disk: Callable[..., Path]) -> None:
    """The disk of the storage is full in the middle, next to a good backup: that one stays, the new one is gone."""
    small_disk(tmp_path / "storage", "3m")
    noise(tmp_path / "small" / "f", 500_000)
    kept = program.backup(f"files://{tmp_path}/small")
    before = program.stored
    noise(tmp_path / "tree" / "f", 8_000_000)
    outcome = program.run("backup", f"files://{tmp_path}/tree", program.storage, "--json", "--part-size", "256KiB")
    told(outcome, 1, "storage_full")
    assert program.stored == before
    assert [entry["backup"] for entry in program.listed()] == [kept["backup"]]
    assert program.run("verify", "--deep", kept["backup"]).code == 0
    assert running(outcome.mark) == {}


def test_a_storage_too_full_for_the_records(program: Program, tmp_path: Path, small_disk: Callable[..., Path]) -> None:
    """Every part fits and the manifest does not, at every size at which that may happen: all or nothing."""
    small_disk(tmp_path / "storage", "1m")
    outcomes = set()
    for blocks in range(244, 256, 2):
        noise(tmp_path / "tree" / "f", blocks * 4096 - 3000)
        outcome = program.run("backup", f"files://{tmp_path}/tree", program.storage, "--json", "--compression", "none")
        outcomes.add(outcome.code)
        listed = program.listed()
        if outcome.code:
            told(outcome, 1, "storage_full")
            assert (listed, program.stored) == ([], [])
        else:
            assert program.run("verify", "--deep", listed[0]["backup"]).code == 0
            shutil.rmtree(tmp_path / "storage" / "tree")
    assert 1 in outcomes


@pytest.mark.parametrize("way", ["moved away", "unmounted", "read-only"])
def test_a_storage_that_goes_away_in_the_middle(
    program: Program, tmp_path: Path, small_disk: Callable[..., Path], way: str
) -> None:
    """The error says that the storage is gone or refuses; nothing is written into the folder beneath a mount."""
    storage = tmp_path / "storage"
    if way != "moved away":
        small_disk(storage, "64m")
    noise(tmp_path / "tree" / "big", 12_000_000)
    process, mark = crawling(program, f"files://{tmp_path}/tree")
    if way == "moved away":
        storage.rename(tmp_path / "elsewhere")
        storage.mkdir()
    elif way == "unmounted":
        subprocess.run(["umount", "--lazy", str(storage)], check=True)
    else:
        wait_for(lambda: remounted_read_only(storage), "no part is being written at that moment")
    outcome = finished(process, mark)
    told(outcome, 5, "storage_denied" if way == "read-only" else "storage_unreachable")
    assert running(mark) == {}
    if way == "read-only":
        assert program.listed() == []
        subprocess.run(["mount", "-o", "remount,rw", str(storage)], check=True)
    else:
        assert list(storage.iterdir()) == []
    notes = outcome.json["details"]["notes"]
    assert any("could not be removed" in note for note in notes)


def remounted_read_only(folder: Path) -> bool:
    """The system refuses while a file in it is open for writing."""
    return subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True, check=False).returncode == 0


def test_a_staging_folder_that_fills_up(program: Program, tmp_path: Path, small_disk: Callable[..., Path]) -> None:
    """No room for the snapshot of a SQLite database."""
    small_disk(tmp_path / "staging", "1m")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute("CREATE TABLE t AS SELECT randomblob(5000000) AS b")
    outcome = program.run("backup", f"sqlite://{tmp_path}/shop.db", program.storage, "--json")
    message = told(outcome, 1, "disk_full")
    assert "staging" in message
    assert_nothing_left(program, outcome)


@pytest.mark.parametrize("engine", ["files", "sqlite"])
@pytest.mark.parametrize("replaced", [False, True], ids=["new", "drop-existing"])
def test_a_target_disk_that_fills_up(
    program: Program, tmp_path: Path, small_disk: Callable[..., Path], engine: str, replaced: bool
) -> None:
    """The restore breaks off, what was there before is there again, and nothing else."""
    disk = small_disk(tmp_path / "disk", "2m")
    target = disk / "target"
    options = ["--drop-existing"] if replaced else []
    if engine == "files":
        noise(tmp_path / "source" / "inner" / "f", 4_000_000)
        if replaced:
            noise(target / "old", 1000)
    else:
        with closing(sqlite3.connect(tmp_path / "source")) as database, database:
            database.execute("CREATE TABLE t AS SELECT randomblob(4000000) AS b")
        if replaced:
            with closing(sqlite3.connect(target)) as database, database:
                database.execute("CREATE TABLE old (x)")
    backup = program.backup(f"{engine}://{tmp_path}/source", "--part-size", "256KiB")["backup"]
    before = tree(disk)
    outcome = program.run("restore", backup, f"{engine}://{target}", "--json", *options)
    told(outcome, 1, "disk_full")
    assert {name: what[4:] for name, what in tree(disk).items()} == {name: what[4:] for name, what in before.items()}
    assert running(outcome.mark) == {}


@pytest.fixture
def tight(postgres17: PostgresServer, small_disk: Callable[..., Path]) -> Iterator[str]:
    """A tablespace with little room."""
    folder = Path(tempfile.mkdtemp(prefix="dg-tight-", dir="/tmp"))
    small_disk(folder, "10m")
    folder.chmod(0o700)
    os.chown(folder, postgres17.folder.stat().st_uid, postgres17.folder.stat().st_gid)
    name = f"tight_{os.getpid()}_{random.getrandbits(32):x}"
    postgres17.execute("postgres", f"CREATE TABLESPACE {name} LOCATION '{folder}'")
    yield name
    postgres17.execute("postgres", f"DROP TABLESPACE {name}")
    subprocess.run(["umount", "--lazy", str(folder)], check=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("replaced", [False, True], ids=["new", "drop-existing"])
def test_a_server_whose_disk_fills_up(program: Program, postgres17: PostgresServer, tight: str, replaced: bool) -> None:
    """A table of 6 MB in a tablespace of 10: its copy beside it does not fit, and the old database stays as it is."""
    rows = "SELECT n AS id, md5(n::text) AS name FROM generate_series(1, 90000) n"
    name = postgres17.database(f"CREATE TABLE items TABLESPACE {tight} AS {rows}")
    backup = program.backup(postgres17.url(name))["backup"]
    expected, databases = postgres17.execute(name, COUNT), postgres17.databases()
    options = ["--drop-existing"] if replaced else []
    target = name if replaced else f"{name}_new"
    outcome = program.run("restore", backup, postgres17.url(target), "--json", *options)
    told(outcome, 1, "disk_full")
    assert postgres17.execute(name, COUNT) == expected
    assert postgres17.databases() == databases
    assert running(outcome.mark) == {}
    postgres17.drop(name)


@pytest.mark.parametrize("victim", ["backend", "pg_restore", "server"])
def test_a_restore_whose_server_or_client_dies(
    program: Program,
    postgres17: PostgresServer,
    fresh_postgres: Callable[..., PostgresServer],
    victim: str,
) -> None:
    """The session is ended, the client killed, or the whole server gone: the old database is as it was."""
    server = fresh_postgres(17) if victim == "server" else postgres17
    name = server.database(ROWS.format(1000), SLOW)
    backup = program.backup(server.url(name))["backup"]
    server.execute(name, "UPDATE items SET name = 'old'")
    expected, databases = server.execute(name, COUNT), server.databases()
    process, mark = program.start("restore", backup, server.url(name), "--drop-existing", "--json")
    working = (
        f"SELECT pid FROM pg_stat_activity WHERE datname LIKE '{name}%' AND state = 'active' AND query LIKE 'COPY%'"
    )
    ((pid,),) = wait_for(lambda: server.execute("postgres", working), "pg_restore to copy")
    if victim == "backend":
        server.execute("postgres", f"SELECT pg_terminate_backend({pid})")
    elif victim == "pg_restore":
        os.kill(wait_for(lambda: child_named(mark, "pg_restore"), "pg_restore"), signal.SIGKILL)
    else:
        server.stop()
    outcome = finished(process, mark)
    told(outcome, 1, "restore_failed")
    assert running(mark) == {}
    if victim == "server":
        notes = outcome.json["details"]["notes"]
        assert any("undoing the restore failed" in note for note in notes)
        server.start()
    else:
        assert server.databases() == databases
    assert server.execute(name, COUNT) == expected


def test_busy_sessions_are_ended_only_when_asked(program: Program, postgres17: PostgresServer) -> None:
    """An application that keeps its session, and comes back whenever it is ended, loses only with --drop-existing."""
    name = postgres17.database(ROWS.format(100))
    backup = program.backup(postgres17.url(name))["backup"]
    expected = postgres17.execute(name, COUNT)
    postgres17.execute(name, "UPDATE items SET name = 'old'")
    loop = f"while :; do psql -qX -d {name} -c 'SELECT pg_sleep(30)' >/dev/null 2>&1 || sleep 0.01; done"
    env = {**postgres17.environment(), "PATH": f"{postgres17.bin}:/usr/bin:/bin"}
    with subprocess.Popen(["sh", "-c", loop], env=env, start_new_session=True) as application:
        try:
            sessions = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE '%pg_sleep%'"
            wait_for(lambda: postgres17.execute("postgres", sessions), "the application")
            refused = program.run("restore", backup, postgres17.url(name), "--json")
            told(refused, 2, "target_not_empty")
            assert postgres17.execute(name, "SELECT DISTINCT name FROM items") == [("old",)]
            outcome = program.run("restore", backup, postgres17.url(name), "--drop-existing")
            assert outcome.code == 0, outcome
            wait_for(lambda: postgres17.execute("postgres", sessions), "the application to be back")
            assert postgres17.execute(name, COUNT) == expected
        finally:
            os.killpg(application.pid, signal.SIGKILL)


def test_warnings_of_a_restore_reach_the_user(
    program: Program, postgres17: PostgresServer, fresh_postgres: Callable[..., PostgresServer]
) -> None:
    """An owner that the target server does not have: a warning on standard error, and the JSON keeps its four keys."""
    role = f"owner_{os.getpid()}"
    postgres17.execute("postgres", f"CREATE ROLE {role}")
    name = postgres17.database("CREATE TABLE t AS SELECT 1 AS x", options=f"OWNER {role}")
    backup = program.backup(postgres17.url(name))["backup"]
    target = fresh_postgres(17)
    outcome = program.run("restore", backup, target.url("copy"), "--json")
    assert outcome.code == 0, outcome
    assert sorted(outcome.json) == ["backup", "duration_seconds", "size_bytes", "target"]
    assert "warning: " in outcome.err
    assert role in outcome.err
    postgres17.drop(name)
    postgres17.execute("postgres", f"DROP ROLE {role}")


def test_what_remains_of_a_replaced_folder_is_a_warning(program: Program, tmp_path: Path) -> None:
    """The old content cannot be removed after the swap: the restore is done, and says where the rest lies."""
    noise(tmp_path / "source" / "new", 1000)
    noise(tmp_path / "target" / "old", 1000)
    stubborn = tmp_path / "target" / "old"
    if os.geteuid() != 0 or subprocess.run(["chattr", "+i", str(stubborn)], check=False).returncode != 0:
        missing("the right to make a file immutable")
    backup = program.backup(f"files://{tmp_path}/source")["backup"]
    outcome = program.run("restore", backup, f"files://{tmp_path}/target", "--drop-existing")
    (rest,) = tmp_path.glob(".target.dataguardian-*")
    subprocess.run(["chattr", "-i", str(rest / "old")], check=True)
    assert outcome.code == 0, outcome
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new"]
    assert f"could not be removed: it lies in {str(rest)!a}" in outcome.err


def test_the_live_database_is_not_disturbed_by_any_of_this(program: Program, tmp_path: Path) -> None:
    """A damaged backup and --drop-existing: exit code 3, and the target is byte for byte what it was."""
    for name, word in (("source", "new"), ("live", "old")):
        with closing(sqlite3.connect(tmp_path / name)) as database, database:
            database.execute("CREATE TABLE t AS SELECT ? AS word, randomblob(300000) AS b", (word,))
    backup = program.backup(f"sqlite://{tmp_path}/source", "--part-size", "64KiB")["backup"]
    before = (tmp_path / "live").read_bytes(), sqlite_dump(tmp_path / "live")
    folder = Path(backup.removeprefix("file://"))
    arguments = [backup, f"sqlite://{tmp_path}/live", "--drop-existing", "--json"]
    for name in ("01-source.sqlite/000003.zst", "parts.jsonl", "SHA256SUMS", "manifest.json"):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(good[:-1] + bytes([good[-1] ^ 4]))
        refused = program.run("restore", *arguments)
        assert refused.code == 3, (name, refused)
        (folder / name).write_bytes(good)
        assert ((tmp_path / "live").read_bytes(), sqlite_dump(tmp_path / "live")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live", "source", "staging", "storage"]
    assert program.run("restore", *arguments).code == 0
