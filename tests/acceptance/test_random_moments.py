"""SIGINT, SIGTERM and kill -9 at random moments of backups and restores, with every engine.

Bounded in time for CI; DATAGUARDIAN_TEST_KILL_SECONDS gives every engine and verb more of it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pytest

from dataguardian.core.verify import run_verify
from dataguardian.engines.registry import ENGINES
from dataguardian.storage.local import LocalConfig, LocalStorage
from tests.acceptance.comparing import tree
from tests.cli.program import Outcome, Program, finished, running, wait_for
from tests.servers import PostgresServer

SECONDS = float(os.environ.get("DATAGUARDIAN_TEST_KILL_SECONDS", "9"))
LEAST_ROUNDS = 4
MOST_ROUNDS = 40
"""As long as no run was hit: the machine may have been slower while the usual time was taken."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
OPTIONS = ["--part-size", "64KiB", "--level", "9"]


class Place(ABC):
    """A source of one engine in two states, and a target that is in one of them."""

    type: str
    source: str
    target: str

    @abstractmethod
    def make(self, word: str) -> None:
        """Brings the source into the state that `word` names."""

    @abstractmethod
    def state(self) -> str:
        """Returns the word of the target, after having looked at all of it."""

    def calm_down(self) -> None:  # noqa: B027 -- only a server has to do something here
        """Waits until nothing works on the target any more: a server finishes what a killed client had asked for."""

    @abstractmethod
    def strangers(self) -> list[str]:
        """Returns what lies beside the target and should not; `clear` removes it."""

    @abstractmethod
    def clear(self) -> None: ...


class FilesPlace(Place):
    type = "files"

    def __init__(self, home: Path) -> None:
        self.folder = home / "folder"
        self.folder.mkdir()
        self.original = home / "source"
        self.source, self.target = f"files://{self.original}", f"files://{self.folder}/target"

    def make(self, word: str) -> None:
        shutil.rmtree(self.original, ignore_errors=True)
        chooser = random.Random(word)
        for number in range(150):
            path = self.original / f"d{number % 10}" / f"f{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(chooser.randbytes(8_000))
        (self.original / "word").write_text(word)
        self.expected = getattr(self, "expected", {}) | {word: tree(self.original)}

    def state(self) -> str:
        word = (self.folder / "target" / "word").read_text()
        assert tree(self.folder / "target") == self.expected[word]
        return word

    def strangers(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name != "target")

    def clear(self) -> None:
        for name in self.strangers():
            shutil.rmtree(self.folder / name)


class SqlitePlace(Place):
    type = "sqlite"

    def __init__(self, home: Path) -> None:
        self.folder = home / "folder"
        self.folder.mkdir()
        self.original = home / "source.db"
        self.source, self.target = f"sqlite://{self.original}", f"sqlite://{self.folder}/target.db"

    def make(self, word: str) -> None:
        self.original.unlink(missing_ok=True)
        with closing(sqlite3.connect(self.original)) as database, database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE t (word TEXT, filling BLOB)")
            database.executemany("INSERT INTO t VALUES (?, randomblob(1000))", [(word,)] * 2000)

    def state(self) -> str:
        with closing(sqlite3.connect(self.folder / "target.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            ((word, count),) = database.execute("SELECT word, count(*) FROM t GROUP BY word").fetchall()
        assert count == 2000
        return str(word)

    def strangers(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name != "target.db")

    def clear(self) -> None:
        for name in self.strangers():
            (self.folder / name).unlink()


class PostgresPlace(Place):
    type = "postgres"

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.name = server.database()
        self.copy = f"{self.name}_target"
        self.source, self.target = server.url(self.name), server.url(self.copy)
        self.before = server.databases() | {self.copy}

    def make(self, word: str) -> None:
        self.server.execute(
            self.name,
            "DROP TABLE IF EXISTS t",
            f"CREATE TABLE t AS SELECT '{word}' AS word, md5(n::text) FROM generate_series(1, 20000) n",
            "CREATE INDEX ON t (md5)",
        )

    def state(self) -> str:
        ((word, count),) = self.server.execute(self.copy, "SELECT word, count(*) FROM t GROUP BY word")
        assert count == 20000
        return str(word)

    def calm_down(self) -> None:
        sessions = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'dataguardian'"
        wait_for(lambda: not self.server.execute("postgres", sessions), "the server to be done")

    def strangers(self) -> list[str]:
        return sorted(self.server.databases() - self.before)

    def clear(self) -> None:
        for name in self.strangers():
            self.server.drop(name)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param != "postgres":
        yield {"files": FilesPlace, "sqlite": SqlitePlace}[request.param](tmp_path)
        return
    found = PostgresPlace(request.getfixturevalue("postgres17"))
    yield found
    for name in {found.name, found.copy} & found.server.databases():
        found.server.drop(name)


@pytest.fixture
def story(program: Program, tmp_path: Path) -> Program:
    """A program whose temporary folder is its own, so that what it leaves there is seen."""
    (tmp_path / "tmp").mkdir()
    program.env["TMPDIR"] = str(tmp_path / "tmp")
    return program


def handles(pid: int, signum: int) -> bool:
    """Tells whether a process has begun to handle a signal: before, Python itself is being loaded."""
    try:
        caught = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return True
    return bool(caught and int(caught[1], 16) & 1 << (signum - 1))


@dataclass
class Marksman:
    """Sends signals to runs that last some `usual_seconds`, and counts their exit codes."""

    usual_seconds: float
    endings: Counter[int] = field(default_factory=Counter)
    chooser: random.Random = field(default_factory=random.Random)

    @property
    def has_hit(self) -> bool:
        return sum(count for code, count in self.endings.items() if code) > 0

    def rounds(self) -> Iterator[int]:
        began, number = time.monotonic(), 0
        while number < LEAST_ROUNDS or time.monotonic() - began < SECONDS or not (self.has_hit or number > MOST_ROUNDS):
            yield number
            number += 1

    def hit(self, process: subprocess.Popen[str], mark: str) -> tuple[int, Outcome]:
        """Returns the signal, and how the run ended; one that came through tells how long runs last by now."""
        signum = self.chooser.choice(SIGNALS)
        wait_for(lambda: process.poll() is not None or handles(process.pid, signal.SIGTERM), "the program to be loaded")
        loaded = time.monotonic()
        try:
            process.wait(self.chooser.uniform(0, self.usual_seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signum)
        outcome = finished(process, mark)
        if outcome.code == 0:
            self.usual_seconds = (self.usual_seconds + time.monotonic() - loaded) / 2
        self.endings[outcome.code] += 1
        return signum, outcome


def check_ending(story: Program, signum: int, outcome: Outcome) -> None:
    """The exit code fits, no stack trace was shown, no child lives, no temporary file is left (but by kill -9)."""
    assert outcome.code in (0, -signum if signum == signal.SIGKILL else 128 + signum), outcome
    assert "Traceback" not in outcome.err, outcome
    assert "ignored" not in outcome.err, outcome
    if outcome.code > 0:
        assert f"stopped by {signal.Signals(signum).name}" in outcome.err, outcome
    if outcome.code == -signal.SIGKILL:
        ended = lambda: not running(outcome.mark)  # noqa: E731 -- asked twice: in its exec a child has no environment
        wait_for(lambda: ended() and ended(), "the children to end", seconds=15)
    assert running(outcome.mark) == {}, outcome
    left = [*(story.home / "tmp").iterdir(), *(story.home / "staging").iterdir()]
    left += [path for path in (story.home / "storage").iterdir() if path.name.startswith(".")]
    if outcome.code != -signal.SIGKILL:
        assert left == []
    for path in left:
        path.unlink()


def backups_in(story: Program) -> list[str]:
    return [entry["backup"] for entry in story.listed()]


def deeply_good(story: Program, backup: str, engine: str) -> bool:
    storage = LocalStorage(LocalConfig(path=str(story.home / "storage")))
    directory = unquote(backup.removeprefix(story.storage + "/"))
    return run_verify(storage, directory, validate=ENGINES.by_type(engine).validate).ok


ENGINE_TYPES = ["files", "sqlite", "postgres"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", ENGINE_TYPES, indirect=True)
def test_backups_stopped_at_random_moments(story: Program, place: Place) -> None:
    """Whatever hits it whenever: what is listed verifies deeply, and what is not listed was removed or never counts."""
    place.make("one")
    began = time.monotonic()
    known = {story.backup(place.source, *OPTIONS)["backup"]}
    marksman = Marksman(time.monotonic() - began)
    for _ in marksman.rounds():
        before = set(story.stored)
        process, mark = story.start("backup", place.source, story.storage, *OPTIONS)
        signum, outcome = marksman.hit(process, mark)
        check_ending(story, signum, outcome)
        new = set(backups_in(story)) - known
        assert len(new) == (1 if outcome.code == 0 else len(new) if signum == signal.SIGKILL else 0), outcome
        assert len(new) <= 1
        assert all(deeply_good(story, backup, place.type) for backup in new)
        if outcome.code > 0:
            assert set(story.stored) == before
        known |= new
    assert marksman.has_hit, "no run was hit"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", ENGINE_TYPES, indirect=True)
def test_restores_stopped_at_random_moments(story: Program, place: Place) -> None:
    """Whatever hits it whenever: the target is the old one or the new one, whole; and the message says which."""
    backups = {}
    for word in ("one", "two"):
        place.make(word)
        backups[word] = story.backup(place.source, *OPTIONS)["backup"]
    assert story.run("restore", backups["one"], place.target).code == 0
    began = time.monotonic()
    assert story.run("restore", backups["two"], place.target, "--drop-existing").code == 0
    marksman = Marksman(time.monotonic() - began)
    state = "two"
    for _ in marksman.rounds():
        wanted = "one" if state == "two" else "two"
        process, mark = story.start("restore", backups[wanted], place.target, "--drop-existing")
        signum, outcome = marksman.hit(process, mark)
        check_ending(story, signum, outcome)
        if outcome.code == -signal.SIGKILL:
            place.calm_down()
        found = place.state()
        if outcome.code == 0:
            assert found == wanted
        elif signum != signal.SIGKILL:
            assert found == state, outcome
        if outcome.code != -signal.SIGKILL:
            assert place.strangers() == [], outcome
        place.clear()
        state = found
    assert marksman.has_hit, "no run was hit"


POINTS = Path(__file__).parents[1] / "faults" / "points"
CLEARING = "dataguardian.core.targets:Targets.clear"
UNDOING = {
    "files": "dataguardian.engines.files.restore:remove_tree",
    "postgres": "dataguardian.engines.postgres.restore:Restoration._undo",
}


def stopped_at(story: Program, point: str, *arguments: str, prefix: Sequence[str] = ()) -> Outcome:
    """Runs the program and sends SIGTERM when it calls a function."""
    folder = story.home / "points"
    folder.mkdir()
    story.env |= {"FAULT_POINTS": point, "FAULT_FOLDER": str(folder), "PYTHONPATH": str(POINTS)}
    process, mark = story.start(*arguments, prefix=prefix)
    wait_for((folder / point).exists, "the clean-up to begin")
    process.send_signal(signal.SIGTERM)
    (folder / f"{point}.go").touch()
    del story.env["FAULT_POINTS"]
    return finished(process, mark)


def test_a_backup_stopped_while_it_cleans_up_after_a_failure(story: Program, tmp_path: Path) -> None:
    """The third of its parts was too big for the storage, so they all go; the stop does not keep any of them."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "big").write_bytes(bytes(150_000) + os.urandom(50_000))
    limited = ["sh", "-c", 'ulimit -f 64 && exec "$@"', "sh"]  # 32 KiB a file
    arguments = ["backup", f"files://{tmp_path}/source", story.storage, *OPTIONS]
    outcome = stopped_at(story, CLEARING, *arguments, prefix=limited)
    assert "File too large" in outcome.err, outcome
    check_ending(story, signal.SIGTERM, outcome)
    assert story.stored == []


@pytest.mark.parametrize("place", sorted(UNDOING), indirect=True)
def test_a_restore_stopped_while_it_is_undone_after_a_failure(story: Program, place: Place) -> None:
    """A part was damaged, so the target stays as it was; the stop leaves nothing lying beside it."""
    place.make("one")
    assert story.run("restore", story.backup(place.source, *OPTIONS)["backup"], place.target).code == 0
    place.make("two")
    backup = story.backup(place.source, *OPTIONS)["backup"]
    *_, last = sorted((story.home / "storage" / backup.removeprefix(f"{story.storage}/")).rglob("*.zst"))
    flipped = bytearray(last.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    last.write_bytes(flipped)
    point = UNDOING[place.type]
    outcome = stopped_at(story, point, "restore", backup, place.target, "--drop-existing")
    assert "was damaged" in outcome.err, outcome
    check_ending(story, signal.SIGTERM, outcome)
    assert (place.state(), place.strangers()) == ("one", [])
