"""Putting SQLite databases back: the old one or the new one, never a mix, whatever happens when."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dataguardian.domain.errors import (
    DiskFullError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    RestoreFailedError,
    TargetInUseError,
    TargetNotEmptyError,
    UsageError,
)
from dataguardian.engines.base import RestoreOptions
from dataguardian.engines.sqlite_child import replacing
from dataguardian.engines.sqlite_child.access import Failure
from tests.conftest import missing
from tests.engines.sqlite_tools import (
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

OLD = "CREATE TABLE t(x); INSERT INTO t VALUES ('old');"
NEW = "CREATE TABLE t(x, y); CREATE INDEX i ON t(y); INSERT INTO t SELECT 'new', value FROM json_each('[1,2,3]');"
WAL = "PRAGMA journal_mode=WAL;"


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test here proves on the way that no temporary file and no process stays behind."""
    folder = tmp_path / "staging"
    folder.mkdir()
    monkeypatch.setenv("DATAGUARDIAN_STAGING_DIR", str(folder))
    before = children()
    yield
    assert [path for path in tmp_path.rglob("*") if ".dataguardian-" in path.name] == []
    assert list(folder.iterdir()) == []
    assert children() <= before


@pytest.fixture
def backup(tmp_path: Path) -> Back:
    folder = tmp_path / "source"
    folder.mkdir()
    dumped = dump(build(folder / "shop.db", WAL + NEW))
    return Back(dumped.data, dumped.metadata)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder / "shop.db"


def what(path: Path) -> set[str]:
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    return {row[0] for row in rows(path, "SELECT x FROM t")}


def neighbours(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def test_an_existing_database_is_replaced_only_when_told(backup: Back, target: Path):
    """Refused before a byte is fetched; allowed with drop_existing, side files of the old one gone."""
    build(target, WAL + OLD)
    with pytest.raises(TargetNotEmptyError, match="already exists") as caught:
        restore(backup, target)
    assert "--drop-existing" in caught.value.hint
    assert what(target) == {"old"}
    restore(backup, target, drop_existing=True)
    assert neighbours(target) == ["shop.db"]
    assert what(target) == {"new"}


def test_what_a_killed_restore_left_is_named_by_the_next_one(backup: Back, target: Path):
    """Only people can tell that no restore is at it any more; another database's is nobody's business here."""
    left, other = (target.with_name(f".{name}.dataguardian-0123456789ab") for name in (target.name, "other.db"))
    for path in (left, other):
        path.touch()
    engine = engine_for(target)
    engine.restore(iter([backup]), RestoreOptions())
    assert what(target) == {"new"}
    [warning] = engine.warnings
    assert str(left) in warning
    for path in (left, other):
        path.unlink()  # both are still there


def test_the_recorded_mode_and_owner_come_back(tmp_path: Path, target: Path):
    """Mode 0640 is 0640 again; as root also the owner; a file without a record is for its owner only."""
    source = build(tmp_path / "shop.db", NEW)
    source.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(source, 4321, 1234)
    dumped = dump(source)
    status = restore(Back(dumped.data, dumped.metadata), target).stat()
    assert status.st_mode & 0o7777 == 0o640
    assert (status.st_uid, status.st_gid) == (source.stat().st_uid, source.stat().st_gid)
    assert restore(Back(dumped.data), target.with_name("other.db")).stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize(
    ("mode", "state"),
    [
        ("WAL", ""),
        ("WAL", "c.execute('BEGIN IMMEDIATE'); "),
        ("DELETE", ""),
        ("DELETE", "c.execute('BEGIN IMMEDIATE'); "),
        ("DELETE", "c.execute('BEGIN EXCLUSIVE'); "),
    ],
)
@pytest.mark.parametrize("prepared", [True, False])
def test_a_database_in_use_is_left_to_its_user(backup: Back, target: Path, mode: str, state: str, prepared: bool):
    """An application has it open, idle or not: refused early and late, and its later commits are not lost."""
    build(target, f"PRAGMA journal_mode={mode};" + OLD)
    script = (
        "c.execute('SELECT * FROM t').fetchall(); " + state + "say('ready'); input(); "
        "c.execute('INSERT INTO t VALUES (5)'); c.in_transaction and c.execute('COMMIT'); say('done')"
    )
    engine, options = engine_for(target), RestoreOptions(drop_existing=True)
    with other_process(target, script) as application:
        with pytest.raises(TargetInUseError, match="in use"):
            _ = (
                engine.prepare_restore([("shop", "sqlite")], options)
                if prepared
                else engine.restore(iter([backup]), options)
            )
        assert application.communicate("\n")[0].strip() == "done"
    assert [row[0] for row in rows(target, "SELECT x FROM t")] == ["old", 5]


def test_a_database_open_in_our_own_process_is_in_use_too(backup: Back, target: Path):
    build(target, OLD)
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("SELECT * FROM t").fetchall()
        with pytest.raises(TargetInUseError, match=str(os.getpid())):
            restore(backup, target, drop_existing=True)


LOGGED = (WAL, "c.execute('PRAGMA wal_autocheckpoint=0'); ", "-wal")
JOURNALED = ("", "c.execute('PRAGMA cache_size=2'); c.execute('BEGIN'); ", "-journal")


@pytest.mark.parametrize("crash", [LOGGED, JOURNALED])
@pytest.mark.parametrize("whole", [True, False])
def test_what_a_crash_left_is_never_replayed_onto_the_new_one(backup: Back, target: Path, crash, whole: bool):
    """The old database has a log or a hot journal beside it, and is perhaps damaged itself: neither leaks over."""
    settings, script, side = crash
    build(target, settings + OLD + "INSERT INTO t SELECT randomblob(900) FROM json_each('[1,2,3,4,5,6,7,8,9]');")
    killed(target, script + "c.execute('UPDATE t SET x = randomblob(900)'); say('ready'); input()")
    assert Path(f"{target}{side}").stat().st_size > 0
    if not whole:
        target.write_bytes(b"no database at all " * 1000)
    restore(backup, target, drop_existing=True)
    assert what(target) == {"new"}
    assert neighbours(target) == ["shop.db"]


def test_a_log_without_its_database_is_in_the_way(backup: Back, target: Path):
    """Somebody removed the database and forgot its log, which SQLite would replay onto whatever comes next."""
    build(target, WAL + OLD)
    killed(target, "c.execute(\"INSERT INTO t VALUES ('old')\"); say('ready'); input()")
    target.unlink()
    with pytest.raises(TargetNotEmptyError, match="-wal"):
        restore(backup, target)
    restore(backup, target, drop_existing=True)
    assert what(target) == {"new"}


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda data: Back(data, error=IntegrityError("part 2 is damaged")), IntegrityError),
        (lambda data: Back(data, error=KeyError("anything")), KeyError),
        (lambda data: Back(data[:-4096], size_bytes=len(data)), RestoreFailedError),
        (lambda data: Back(data[:-4096]), RestoreFailedError),
        (lambda data: Back(data[:4096] + b"\xa5" * (len(data) - 4096)), RestoreFailedError),
        (lambda data: Back(b""), RestoreFailedError),
        (lambda data: Back(b"plain text " * 999), RestoreFailedError),
        (lambda data: Back(data, kind="tar"), UsageError),
    ],
)
def test_a_bad_stream_costs_nothing(backup: Back, target: Path, spoil, error, existing: bool):
    """The stream breaks, ends early, or is no sound database: the target is as before, byte for byte."""
    if existing:
        build(target, WAL + OLD)
    before = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    with pytest.raises(error):
        engine_for(target).restore(iter([spoil(backup.data)]), RestoreOptions(drop_existing=True))
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == before


def test_a_second_stream_is_refused(backup: Back, target: Path):
    """Two databases do not fit into one file; said in advance, and again when nobody asked in advance."""
    for kinds in ([], ["tar"], ["sqlite", "sqlite"]):
        with pytest.raises(UsageError):
            engine_for(target).prepare_restore([("shop", kind) for kind in kinds], RestoreOptions())
    for streams in ([], [backup, backup]):
        with pytest.raises(UsageError):
            engine_for(target).restore(iter(streams), RestoreOptions())
    assert neighbours(target) == []


def test_a_full_disk_leaves_the_target(backup: Back, tmp_path: Path):
    """The disk has no room for the new one beside the old one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        missing("root, to mount a small tmpfs")
    try:
        target = build(folder / "shop.db", OLD)
        (folder / "ballast").write_bytes(bytes(48 * 1024))
        with pytest.raises(DiskFullError, match="small"):
            restore(backup, target, drop_existing=True)
        assert what(target) == {"old"}
        assert neighbours(target) == ["ballast", "shop.db"]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_places_where_no_database_can_be(backup: Back, tmp_path: Path):
    """No folder, a folder in its place, somebody else's folder: said before a byte is fetched."""
    with pytest.raises(NotFoundError, match="no folder"):
        restore(backup, tmp_path / "nowhere" / "shop.db")
    with pytest.raises(UsageError, match="not a file"):
        restore(backup, tmp_path / "staging", drop_existing=True)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.geteuid() != 0:
        with pytest.raises(NotAllowedError, match="locked"):
            restore(backup, locked / "shop.db")


def test_a_link_to_a_database_stays_a_link(backup: Back, target: Path):
    """The file that the link means is replaced, not the link."""
    build(target, OLD)
    link = target.with_name("link.db")
    link.symlink_to(target)
    restore(backup, link, drop_existing=True)
    assert link.is_symlink()
    assert what(target) == {"new"}


@pytest.mark.parametrize("links", [True, False])
def test_a_database_that_appears_meanwhile_is_kept(backup: Back, target: Path, monkeypatch, links: bool):
    """The application created its database while we fetched: ours does not overwrite it, with hard links or without."""
    calls = []

    def no_links(*_: object) -> None:
        calls.append(1)
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", no_links)

    def streams() -> Iterator[Back]:
        yield backup
        build(target, OLD)

    with pytest.raises(TargetNotEmptyError):
        engine_for(target).restore(streams(), RestoreOptions())
    assert what(target) == {"old"}
    assert what(restore(backup, target.with_name("free.db"))) == {"new"}
    assert bool(calls) is not links


def fork_and_replace(target: Path, fresh: Path, sabotage: Callable[[], None]) -> int:
    """Runs the real replacement in a process of its own, sabotaged; returns how that ended: 7 for a failure that was
    told, as an error or, after the swap, as a warning.
    """
    pid = os.fork()
    if pid == 0:
        try:
            sabotage()
            if replacing.replace(str(target), str(fresh))["warnings"]:
                os._exit(7)
        except (OSError, Failure):
            os._exit(7)
        finally:
            os._exit(8)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(*_: object) -> None:
    raise OSError(errno.EIO, "the disk is broken")


@pytest.mark.parametrize("step", ["_processes_with", "_put_aside", "sync_directory", "replace", "unlink"])
@pytest.mark.parametrize("fault", [die, fail])
@pytest.mark.parametrize("log", [True, False])
def test_every_step_of_a_replacement_may_be_the_last(backup: Back, target: Path, step: str, fault, log: bool):
    """Killed or failed at each step: the target is the old database with all its rows, or the new one, whole."""
    build(target, WAL + OLD)
    if log:
        killed(target, "c.execute(\"INSERT INTO t VALUES ('logged')\"); say('ready'); input()")
    fresh = target.with_name("fresh")
    fresh.write_bytes(backup.data)

    def sabotage() -> None:
        owner = Path if step in ("replace", "unlink") else replacing
        setattr(owner, step, fault)

    ended = fork_and_replace(target, fresh, sabotage)
    assert ended == (-9 if fault is die else 7), "the fault did not fire"
    expected = {"new"} if step == "unlink" else {"old", "logged"} if log else {"old"}
    assert what(target) == expected


def test_a_restore_killed_at_any_moment_leaves_one_or_the_other(tmp_path: Path, backup: Back, target: Path):
    """kill -9 at random moments of restores that never stop replacing: the target is always whole."""
    build(target, WAL + OLD)
    big = dump(build(tmp_path / "big.db", WAL + NEW + "CREATE TABLE z(b); INSERT INTO z VALUES (randomblob(9000000));"))
    (tmp_path / "a.bin").write_bytes(big.data)
    (tmp_path / "b.bin").write_bytes(backup.data)
    script = """
import pathlib, sys, itertools
from tests.engines.sqlite_tools import Back, restore
folder, target = map(pathlib.Path, sys.argv[1:])
streams = [Back((folder / name).read_bytes()) for name in ("a.bin", "b.bin")]
print("ready", flush=True)
for stream in itertools.cycle(streams):
    restore(stream, target, drop_existing=True)
    print("restored", flush=True)
"""
    seen: set[str] = set()
    for number in range(5):
        argv = [sys.executable, "-c", script, str(tmp_path), str(target)]
        with subprocess.Popen(argv, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(1 + number // 4):  # the last one is killed behind a first restore, however busy the machine
                process.stdout.readline()
            time.sleep(random.uniform(0.02, 0.6))
            process.kill()
        time.sleep(0.3)  # the child hears of it and ends
        seen |= what(target)
        for left in target.parent.glob(".shop.db.dataguardian-*"):
            left.unlink(missing_ok=True)  # what only kill -9 may leave
    assert seen <= {"old", "new"}
    assert "new" in seen


def test_several_restores_one_after_the_other(backup: Back, target: Path):
    """Replacing again and again works, and what comes back is what was backed up."""
    for _ in range(3):
        restore(backup, target, drop_existing=target.exists())
        build(target, "INSERT INTO t VALUES ('later', 9)")
    restore(backup, target, drop_existing=True)
    assert content(target)["journal_mode"] == (b"wal",)
    assert what(target) == {"new"}
