"""Backing up SQLite databases while they live."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dataguardian.domain.errors import (
    DataGuardianError,
    DiskFullError,
    DumpFailedError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    UsageError,
)
from dataguardian.domain.urls import parse_url
from dataguardian.engines import sqlite
from dataguardian.engines.base import DumpOptions
from dataguardian.engines.registry import ENGINES, engine_config
from dataguardian.engines.sqlite import SqliteConfig, validate
from tests.conftest import missing, require_tool
from tests.engines.sqlite_tools import (
    PAIRS,
    Back,
    build,
    children,
    content,
    dump,
    engine_for,
    killed,
    other_process,
    restore,
    rows,
)

ZOO = """
CREATE TABLE plain(name TEXT, amount REAL, raw BLOB);
INSERT INTO plain VALUES ('a' || char(0) || 'b', 1.5, x'00ff00'), ('Grüße ✓', -0.0, NULL), (zeroblob(20000), 9e999, '');
INSERT INTO plain SELECT hex(randomblob(30)), random(), randomblob(99) FROM plain, plain, plain, plain;
DELETE FROM plain WHERE rowid % 3 = 0;
CREATE TABLE bare(code TEXT PRIMARY KEY, n INT) WITHOUT ROWID; INSERT INTO bare VALUES ('x', 1), ('y', 2);
CREATE TABLE tight(n INT, t TEXT) STRICT; INSERT INTO tight VALUES (1, 'one');
CREATE TABLE made(a INT, b INT AS (a * 2) STORED, c INT AS (a + 1)); INSERT INTO made VALUES (21);
CREATE TABLE numbered(id INTEGER PRIMARY KEY AUTOINCREMENT, plain TEXT UNIQUE); INSERT INTO numbered VALUES (77, 'z');
CREATE TABLE "odd ""name"", 'é' [x]; --"("sel ect" INT); INSERT INTO "odd ""name"", 'é' [x]; --" VALUES (5);
CREATE VIEW seen AS SELECT name FROM plain;
CREATE TRIGGER noted AFTER INSERT ON bare BEGIN INSERT INTO made(a) VALUES (new.n); END;
CREATE INDEX part ON plain(amount) WHERE amount > 0; CREATE INDEX expr ON plain(lower(name));
CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES ('the quick brown fox');
CREATE TABLE blank(x);
PRAGMA user_version = 42; PRAGMA application_id = 1234567; ANALYZE;
"""
SPILL = "c.execute('PRAGMA cache_size=2'); c.execute('BEGIN'); c.execute('UPDATE a SET x = randomblob(900)'); "


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test here proves on the way that nothing stays behind, neither files nor processes."""
    folder = tmp_path / "staging"
    folder.mkdir()
    monkeypatch.setenv("DATAGUARDIAN_STAGING_DIR", str(folder))
    before = children()
    yield folder
    assert list(folder.iterdir()) == []
    assert children() <= before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        missing("root, to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return build(tmp_path / "shop.db", PAIRS + "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);")


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "PRAGMA journal_mode=WAL;",
        "PRAGMA page_size=512; PRAGMA auto_vacuum=FULL;",
        "PRAGMA page_size=65536; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL;",
        "PRAGMA encoding='UTF-16le';",
        "PRAGMA encoding='UTF-16be'; PRAGMA page_size=1024;",
    ],
)
def test_everything_that_a_database_holds_comes_back(tmp_path: Path, settings: str):
    """A zoo of objects and odd values is the same after a restore, rowids, gaps and settings included."""
    original = build(tmp_path / "zoo.db", settings + ZOO)
    dumped = dump(original)
    restored = restore(Back(dumped.data, dumped.metadata), tmp_path / "again.db")
    assert content(restored) == content(original)
    assert rows(restored, "SELECT * FROM words WHERE words MATCH 'quick'") == [("the quick brown fox",)]
    assert rows(restored, "PRAGMA integrity_check") == [("ok",)]
    assert dumped.warnings == []
    assert dumped.metadata["page_count"] * dumped.metadata["page_size"] == len(dumped.data)
    assert dumped.metadata["user_version"] == 42


def test_an_empty_file_is_an_empty_database(tmp_path: Path):
    """A database that was created and never written is a file of no bytes, and comes back as a database."""
    original = tmp_path / "new.db"
    original.touch()
    dumped = dump(original)
    assert content(restore(Back(dumped.data, dumped.metadata), tmp_path / "again.db")) == content(original)


@pytest.mark.parametrize(
    "name",
    [b"-rf.db", b"a b.db", b"q?mode=memory", b"h#sh.db", b"100%41.db", b"\xff\xfe.db", "né.db".encode(), b"a\nb"],
)
def test_any_file_name_will_do(tmp_path: Path, name: bytes):
    """Names that mean something to shells, options, URIs or codecs are names, on both ways."""
    original = build(tmp_path / os.fsdecode(name), ZOO)
    engine = engine_for(original)
    assert engine.check().status == "ok"
    engine.inventory()
    name_shown = SqliteConfig(file_path=str(original)).default_name()
    assert name_shown.encode()
    dumped = dump(original)
    folder = tmp_path / "out"
    folder.mkdir()
    restored = restore(Back(dumped.data, dumped.metadata), folder / os.fsdecode(name))
    restore(Back(dumped.data, dumped.metadata), restored, drop_existing=True)
    assert [os.fsencode(entry.name) for entry in folder.iterdir()] == [name]
    assert content(restored) == content(original)


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_snapshot_is_one_point_in_time_while_others_write(tmp_path: Path, mode: str):
    """A writer commits pairs of rows all the time: no copy holds half a pair, or misses what was there before."""
    live = build(tmp_path / "live.db", f"PRAGMA journal_mode={mode};" + PAIRS)
    script = """
c.execute("PRAGMA synchronous=OFF"); say("ready")
for n in range(10**9):
    c.execute("BEGIN IMMEDIATE")
    c.execute("INSERT INTO a VALUES (?)", (n,)); c.execute("INSERT INTO b VALUES (?)", (n,))
    c.execute("COMMIT")
    time.sleep(0.002)
"""
    grown = []
    with other_process(live, script):
        for number in range(5):
            before = sum(engine_for(live).inventory().items.values())
            dumped = dump(live)
            copy = restore(Back(dumped.data, dumped.metadata), tmp_path / f"copy{number}.db")
            assert rows(copy, "SELECT * FROM a ORDER BY 1") == rows(copy, "SELECT * FROM b ORDER BY 1")
            grown.append(sum(engine_for(copy).inventory().items.values()))
            assert grown[-1] >= before
    assert grown[-1] > grown[0], "the writer wrote nothing: this proved nothing"


def test_rows_that_are_only_in_the_write_ahead_log_are_in(tmp_path: Path):
    """A writer was killed before its log was checkpointed: its commits are in the log, and so in the copy."""
    live = build(tmp_path / "live.db", "PRAGMA journal_mode=WAL;" + PAIRS)
    killed(
        live, "c.execute('PRAGMA wal_autocheckpoint=0'); c.execute('INSERT INTO a VALUES (7)'); say('ready'); input()"
    )
    assert Path(f"{live}-wal").stat().st_size > 0
    wal = Path(f"{live}-wal").read_bytes()
    dumped = dump(live)
    assert rows(restore(Back(dumped.data), tmp_path / "copy.db"), "SELECT x FROM a") == [(7,)]
    assert Path(f"{live}-wal").read_bytes() == wal


def test_half_a_transaction_of_a_killed_writer_is_not_in(tmp_path: Path):
    """A writer was killed with half its pages written: SQLite rolls its hot journal back, and we copy the result."""
    live = build(tmp_path / "live.db", PAIRS + "INSERT INTO a SELECT value FROM json_each('[1,2,3]');")
    build(live, "INSERT INTO a SELECT a.x FROM a, a a2, a a3, a a4, a a5, a a6, a a7;")
    before = content(live)
    committed = live.read_bytes()
    killed(live, SPILL + "say('ready'); input()")
    assert Path(f"{live}-journal").stat().st_size > 0
    assert live.read_bytes()[: len(committed)] != committed
    dumped = dump(live)
    assert content(restore(Back(dumped.data), tmp_path / "copy.db")) == before


def test_locks_of_our_own_process_survive_a_backup(shop: Path):
    """The application lives in our process and holds a transaction: after a backup nobody else can break into it."""
    with closing(sqlite3.connect(shop, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO a VALUES (2)")
        engine_for(shop).check()
        engine_for(shop).inventory()
        dump(shop)
        script = """
c.execute("PRAGMA busy_timeout=0")
try: c.execute("BEGIN IMMEDIATE"); say("broken")
except sqlite3.OperationalError: say("ready")
"""
        with other_process(shop, script):
            connection.execute("COMMIT")
    assert rows(shop, "SELECT x FROM a") == [(1,), (2,)]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_backup_leaves_no_trace_in_the_source(tmp_path: Path, mode: str):
    """A database that nobody has open has the same bytes, times and neighbours after a backup."""
    folder = tmp_path / "data"
    folder.mkdir()
    live = build(folder / "live.db", f"PRAGMA journal_mode={mode};" + PAIRS)
    before = (live.read_bytes(), live.stat().st_mtime_ns)
    dump(live)
    engine_for(live).check()
    assert (live.read_bytes(), live.stat().st_mtime_ns) == before
    assert list(folder.iterdir()) == [live]


def test_a_locked_database_is_waited_for_and_then_named(shop: Path, monkeypatch: pytest.MonkeyPatch):
    """Another process holds the database exclusively for longer than we wait."""
    monkeypatch.setattr(sqlite, "BUSY_WAIT_SECONDS", 0.3)
    with other_process(shop, "c.execute('BEGIN EXCLUSIVE'); say('ready'); input()"):
        with pytest.raises(DumpFailedError, match="kept the database"):
            dump(shop)
        assert engine_for(shop).check().status == "timeout"


def test_a_lock_that_is_let_go_in_time_only_delays(shop: Path):
    """The exclusive transaction ends while we wait: its row is in the copy."""
    script = """
c.execute("BEGIN EXCLUSIVE"); c.execute("INSERT INTO a VALUES (2)"); say("ready")
time.sleep(0.7); c.execute("COMMIT"); input()
"""
    with other_process(shop, script):
        dumped = dump(shop)
    assert rows(restore(Back(dumped.data), shop.with_name("copy.db")), "SELECT count(*) FROM a") == [(2,)]


def damage(path: Path) -> None:
    build(path, ZOO)
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 3] = b"\xa5" * 4096
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "error", "message", "status"),
    [
        (lambda path: None, NotFoundError, "no database", "unreachable"),
        (lambda path: path.mkdir(), UsageError, "not a file", "error"),
        (os.mkfifo, UsageError, "not a file", "error"),
        (lambda path: path.write_text("no database " * 999), DumpFailedError, "not a SQLite database", "error"),
        (lambda path: path.write_bytes(os.urandom(8192)), DumpFailedError, "encrypted", "error"),
        (damage, DumpFailedError, "damaged", "error"),
    ],
)
def test_what_is_no_sound_database_is_refused_by_name(tmp_path: Path, make, error, message: str, status: str):
    """Missing, a folder, a pipe, some text, noise, a database with a broken page: each with its own words."""
    path = tmp_path / "shop.db"
    make(path)
    with pytest.raises(error, match=message) as caught:
        dump(path)
    assert str(path) in caught.value.message
    assert engine_for(path).check().status == status


@pytest.mark.parametrize("options", [DumpOptions(include=("plain",)), DumpOptions(exclude=("plain",))])
def test_a_part_of_a_database_is_refused_and_not_taken_for_the_whole(shop: Path, options: DumpOptions):
    """Who asks to leave a table out must not get it into the backup without a word."""
    with pytest.raises(UsageError, match="no --include or --exclude"):
        next(iter(engine_for(shop).dump(options)))


def test_an_unreadable_database_is_not_allowed():
    """The file is another user's: said before anything is staged."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = build(Path(folder) / "shop.db", PAIRS)
        path.chmod(0)
        if os.geteuid() != 0:
            with pytest.raises(NotAllowedError):
                dump(path)
            return
        pid = os.fork()
        if pid == 0:
            os.setuid(65534)
            try:
                dump(path)
            except NotAllowedError:
                os._exit(77)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 77


def test_a_full_staging_folder_says_where_to_point_it(tmp_path: Path, small_disk: Path, monkeypatch):
    """The snapshot does not fit: the error names the variable, and the folder is empty again."""
    monkeypatch.setenv("DATAGUARDIAN_STAGING_DIR", str(small_disk))
    big = build(tmp_path / "big.db", "CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(1000000));")
    with pytest.raises(DiskFullError) as caught:
        dump(big)
    assert "DATAGUARDIAN_STAGING_DIR" in caught.value.hint
    assert "bytes" in caught.value.message
    with pytest.raises(DiskFullError) as caught:
        validate("sqlite", {}, iter([big.read_bytes()]))
    assert "DATAGUARDIAN_STAGING_DIR" in caught.value.hint
    assert list(small_disk.iterdir()) == []


def test_a_staging_folder_that_is_not_there_is_named(shop: Path, monkeypatch):
    monkeypatch.setenv("DATAGUARDIAN_STAGING_DIR", "/nowhere/at/all")
    with pytest.raises(NotAllowedError, match="/nowhere/at/all") as caught:
        dump(shop)
    assert "DATAGUARDIAN_STAGING_DIR" in caught.value.hint


def test_nothing_lies_in_the_staging_folder_while_the_stream_is_read(shop: Path, staging: Path):
    """Even kill -9 leaves nothing: the snapshot has lost its name before its first byte is read."""
    (dumped,) = engine_for(shop).dump(DumpOptions())
    with dumped as stream:
        assert list(staging.iterdir()) == []
        assert stream.readinto(memoryview(bytearray(16))) == 16


def test_a_stream_that_was_not_read_to_its_end_is_not_complete(shop: Path):
    (dumped,) = engine_for(shop).dump(DumpOptions())
    with dumped as stream:
        stream.readinto(memoryview(bytearray(5000)))
        with pytest.raises(DumpFailedError, match="gave 5000 bytes"):
            stream.finish()


def test_a_cancelled_backup_ends_its_child_and_its_file(shop: Path, staging: Path):
    """The user presses Ctrl-C while SQLite waits deep inside a call."""

    interrupted = []

    def interrupt(*_: object) -> None:
        if len(list(staging.iterdir())) != 1:  # the snapshot has not begun
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            return
        interrupted.append(time.monotonic())
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with other_process(shop, "c.execute('BEGIN EXCLUSIVE'); say('ready'); input()"):
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt):
                dump(shop)
            assert time.monotonic() - interrupted[0] < 20  # SQLite would wait for a minute
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_killed_backup_takes_its_child_and_its_file_along(shop: Path, staging: Path):
    """kill -9 while the snapshot is being taken: the child hears of it and cleans up."""
    require_tool("setpriv")
    script = "import sys, pathlib; from tests.engines.sqlite_tools import dump; dump(pathlib.Path(sys.argv[1]))"
    with other_process(shop, "c.execute('BEGIN EXCLUSIVE'); say('ready'); input()"):
        with subprocess.Popen([sys.executable, "-c", script, str(shop)], cwd=Path(__file__).parents[2]) as backup:
            wait_until(lambda: list(staging.iterdir()) and any(opened(pid, shop) for pid in children(backup.pid)))
            backup.kill()
        wait_until(lambda: not list(staging.iterdir()))


def opened(pid: int, path: Path) -> bool:
    """Tells whether a process has a file open: before, it may not be ready to hear of anything."""
    try:
        return any(link.readlink() == path for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_only_the_application_knows_is_copied_with_a_warning(tmp_path: Path):
    """A table uses a collation of the application's: it cannot be checked here, and is backed up all the same."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.create_collation("ours", lambda one, two: (one > two) - (one < two))
        connection.executescript("CREATE TABLE t(x TEXT COLLATE ours PRIMARY KEY); INSERT INTO t VALUES ('q');" + PAIRS)
    dumped = dump(path)
    assert len(dumped.warnings) == 1
    assert "table t was copied but could not be checked" in dumped.warnings[0]
    assert "ours" in dumped.warnings[0]
    restore(Back(dumped.data), tmp_path / "copy.db")
    validate("sqlite", dumped.metadata, iter([dumped.data]))


def test_rows_against_the_rules_are_warned_of_and_kept(tmp_path: Path):
    """The application forbade NULL when there was one already: that is no damage."""
    later = "PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql = 'CREATE TABLE t(x NOT NULL)' WHERE name = 't';"
    dumped = dump(build(tmp_path / "app.db", "CREATE TABLE t(x); INSERT INTO t VALUES (NULL);" + later))
    assert dumped.warnings == ["NULL value in t.x"]
    assert rows(restore(Back(dumped.data), tmp_path / "copy.db"), "SELECT x FROM t") == [(None,)]


def test_the_hand_written_command_restores(tmp_path: Path):
    """The first command of the manifest, with the stock sqlite3, gives the same database."""
    require_tool("sqlite3")
    original = build(tmp_path / "zoo.db", ZOO)
    (dumped,) = engine_for(original).dump(DumpOptions())
    with dumped as stream:
        command = stream.restore_by_hand[0]
    done = subprocess.run(
        ["sh", "-c", command], input=dump(original).data, cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stdout == b"ok\n"
    assert content(tmp_path / "restored.db") == content(original)


def test_validate_reads_a_whole_dump_without_its_source(tmp_path: Path):
    """Good bytes pass; a broken page, a cut, a foreign text, nothing, and an index that lost a row do not."""
    good = dump(build(tmp_path / "zoo.db", ZOO))
    validate("sqlite", good.metadata, iter([good.data[:777], good.data[777:]]))
    page = good.metadata["page_size"]
    wrecks = [
        good.data[: 2 * page] + b"\xa5" * page + good.data[3 * page :],
        good.data[:-page],
        b"no database " * 999,
        b"",
        lost_index_row(tmp_path / "lost.db"),
    ]
    for wreck in wrecks:
        with pytest.raises(IntegrityError):
            validate("sqlite", {}, iter([wreck]))
    with pytest.raises(IntegrityError, match="another size"):
        validate("sqlite", good.metadata | {"page_count": 1}, iter([good.data]))


def lost_index_row(path: Path) -> bytes:
    """Gives an index an entry too few, by hiding the index while a row is written."""
    build(path, "CREATE TABLE t(x); CREATE INDEX i ON t(x); INSERT INTO t VALUES (1);")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        kept = connection.execute("SELECT * FROM sqlite_master WHERE name='i'").fetchone()
        connection.execute("DELETE FROM sqlite_master WHERE name='i'")
    build(path, "INSERT INTO t VALUES (2);")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", kept)
    return path.read_bytes()


def test_validate_passes_on_what_the_reader_raises(tmp_path: Path):
    """A damaged part in the middle: its own error arrives, and the staged file is gone."""

    def chunks() -> Iterator[bytes]:
        yield b"SQLite format 3\x00"
        raise IntegrityError("part 2 is damaged")

    with pytest.raises(IntegrityError, match="part 2"):
        validate("sqlite", {}, chunks())
    with pytest.raises(IntegrityError, match="kind tar"):
        validate("tar", {}, chunks())


def test_check_and_inventory_say_what_is_there(tmp_path: Path):
    """What people want to know of a healthy database."""
    engine = engine_for(build(tmp_path / "zoo.db", ZOO))
    result = engine.check()
    assert result.status == "ok", result.message
    assert result.metadata["quick_check"] == "ok"
    assert result.metadata["size_bytes"] == (tmp_path / "zoo.db").stat().st_size
    items = engine.inventory().items
    assert items["bare"] == 2
    assert items["blank"] == 0
    assert items["odd \"name\", 'é' [x]; --"] == 1
    assert engine.tools[0].version == sqlite3.sqlite_version


def test_the_source_may_be_a_symbolic_link(shop: Path, tmp_path: Path):
    link = tmp_path / "link.db"
    link.symlink_to(shop)
    dumped = dump(link)
    assert content(restore(Back(dumped.data), tmp_path / "copy.db")) == content(shop)


def test_addresses(tmp_path: Path):
    """What the command line takes, gives back without loss, and refuses."""
    config = engine_config(parse_url("sqlite:///data/my%20shop%FF.db"))
    assert isinstance(config, SqliteConfig)
    assert config.file_path == "/data/my shop\udcff.db"
    assert config.describe() == "sqlite:///data/my%20shop%FF.db"
    assert config.default_name() == "my shop\\xff"
    for address in ("sqlite://shop.db", "sqlite:///data/", "sqlite:///a.db?mode=ro"):
        with pytest.raises(UsageError):
            engine_config(parse_url(address))
    with pytest.raises(ValueError, match="absolute"):
        SqliteConfig(file_path="shop.db")
    assert ENGINES.by_type("sqlite").programs()[0].version == sqlite3.sqlite_version


def test_a_child_that_dies_is_a_failed_backup(shop: Path, monkeypatch):
    """The helper process ends in an unforeseen way: its last words are in the error."""
    monkeypatch.setattr("dataguardian.engines.sqlite.process._PROGRAM", "import sys; sys.exit('out of luck')")
    with pytest.raises(DumpFailedError, match="code 1: out of luck"):
        dump(shop)
    assert issubclass(DumpFailedError, DataGuardianError)


def test_a_crashed_writer_in_a_folder_that_is_read_only(tmp_path: Path):
    """On a read-only file system a clean WAL database is copied, and one with a log that needs work is explained."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=False, capture_output=True).returncode
    ):
        missing("root, to mount a tmpfs")
    try:
        clean = build(folder / "clean.db", "PRAGMA journal_mode=WAL;" + PAIRS)
        crashed = folder / "crashed.db"
        shutil.copy(clean, crashed)
        killed(crashed, "c.execute('INSERT INTO a VALUES (7)'); say('ready'); input()")
        Path(f"{crashed}-shm").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        dumped = dump(clean)
        assert dumped.metadata["page_count"] == 3
        with pytest.raises(NotAllowedError) as caught:
            dump(crashed)
        assert "-wal" in caught.value.hint
    finally:
        subprocess.run(["umount", str(folder)], check=True)
