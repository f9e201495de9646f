"""Stopping the program, at a bad moment, by every means: what is left, what is told, what still runs."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.program import Outcome, Program, finished, running, wait_for

SLOW = ["--level", "19", "--part-size", "256KiB"]


def parts_in(program: Program) -> list[str]:
    return [path for path in program.stored if path.endswith(".zst")]


def start_slow_backup(program: Program, slow_tree: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """Returns a backup that has stored its first parts and has many more to go."""
    process, mark = program.start("backup", f"files://{slow_tree}", program.storage, *SLOW, *options)
    wait_for(lambda: len(parts_in(program)) >= 2, "the first parts")
    return process, mark


def stop(process: subprocess.Popen[str], mark: str, signum: int) -> Outcome:
    """Sends the signal, and tells whether the program was still at work then."""
    assert process.poll() is None, "the program ended before it could be stopped"
    process.send_signal(signum)
    return finished(process, mark)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_stopped_backup_leaves_nothing(program: Program, slow_tree: Path, signum: int, code: int) -> None:
    """A signal in the middle of a backup: no object, no child, no staged file, a clear message, the right exit code."""
    process, mark = start_slow_backup(program, slow_tree)
    outcome = stop(process, mark, signum)
    assert outcome.code == code
    assert "nothing of this backup was left in the storage" in outcome.err
    assert "Traceback" not in outcome.err
    assert (program.stored, program.staged, running(mark)) == ([], [], {})


def test_a_stop_is_told_as_json(program: Program, slow_tree: Path) -> None:
    """With --json the cancelled backup is one object on standard output, and standard error stays empty."""
    process, mark = start_slow_backup(program, slow_tree, "--json")
    outcome = stop(process, mark, signal.SIGTERM)
    assert (outcome.code, outcome.json["error"], outcome.err) == (143, "cancelled", "")


def test_impatience_does_not_spoil_the_clean_up(program: Program, slow_tree: Path) -> None:
    """Ctrl-C again and again: the clean-up still finishes."""
    process, mark = start_slow_backup(program, slow_tree)
    for _ in range(5):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    outcome = finished(process, mark)
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    assert (program.stored, running(mark)) == ([], {})


def at_start(program: Program, code: str) -> None:
    """Lets Python run this at the start of every program that the test starts."""
    (program.home / "site").mkdir()
    (program.home / "site" / "sitecustomize.py").write_text(code)
    program.env["PYTHONPATH"] = str(program.home / "site")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("verb", ["backup", "restore", "list"])
def test_a_stop_while_the_program_is_being_loaded(program: Program, tree: Path, verb: str, signum: int) -> None:
    """In the middle of a class of a library, where Python makes another error of what is raised: told as any stop."""
    backup = program.backup(f"files://{tree}")["backup"]
    before = program.stored
    at_start(
        program,
        f"""
import functools, os, signal
original = functools.cached_property.__set_name__
def hit(self, owner, name):
    if callable(signal.getsignal(signal.SIGTERM)):
        functools.cached_property.__set_name__ = original
        os.kill(os.getpid(), {int(signum)})
    original(self, owner, name)
functools.cached_property.__set_name__ = hit
""",
    )
    arguments = {
        "backup": [f"files://{tree}", program.storage],
        "restore": [backup, f"files://{program.home}/target"],
        "list": [program.storage],
    }
    outcome = program.run(verb, *arguments[verb])
    assert outcome.code == 128 + signum, outcome
    assert outcome.err.startswith(f"error: stopped by {signal.Signals(signum).name}"), outcome
    assert "Traceback" not in outcome.err
    assert "RuntimeError" not in outcome.err
    assert (program.stored, program.staged, (program.home / "target").exists()) == (before, [], False)


def test_a_stop_after_the_result(program: Program, tree: Path) -> None:
    """Between the last line of the result and the end of the process a signal comes too late, and changes nothing."""
    program.backup(f"files://{tree}")
    at_start(
        program,
        """
import os, signal, sys
original = sys.exit
def hit(code):
    os.kill(os.getpid(), signal.SIGTERM)
    original(code)
sys.exit = hit
""",
    )
    outcome = program.run("list", program.storage, "--json")
    assert (outcome.code, len(outcome.json["backups"])) == (0, 1), outcome
    assert outcome.err == "too late to stop, finishing...\n"


def test_nohup_is_respected(program: Program, slow_tree: Path) -> None:
    """A SIGHUP that the caller ignores stays ignored; SIGTERM still stops."""
    process, mark = program.start(
        "backup", f"files://{slow_tree}", program.storage, *SLOW, prefix=["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]
    )
    wait_for(lambda: len(parts_in(program)) >= 2, "the first parts")
    process.send_signal(signal.SIGHUP)
    count = len(parts_in(program))
    wait_for(lambda: len(parts_in(program)) > count, "the backup to go on")
    assert stop(process, mark, signal.SIGTERM).code == 143


def test_a_killed_backup_is_never_listed(program: Program, slow_tree: Path) -> None:
    """kill -9 leaves parts behind but no backup: `list` shows none, and no child lives on."""
    process, mark = start_slow_backup(program, slow_tree)
    assert running(mark).keys() - {process.pid}, "there is a child to be ended"
    assert stop(process, mark, signal.SIGKILL).code == -signal.SIGKILL
    wait_for(lambda: not running(mark), "the children to end", seconds=10)
    assert parts_in(program)
    assert program.listed() == []
    assert program.run("list", program.storage).err == ""
    (unfinished,) = (program.home / "storage" / "slow").iterdir()
    refused = program.run("verify", f"file://{unfinished}", "--json")
    assert (refused.code, refused.json["ok"]) == (3, False)


def test_a_killed_sqlite_backup_ends_its_child(program: Program, big_shop: Path) -> None:
    """kill -9 while SQLite is read: the child with the snapshot ends too, and the database is as usable as before."""
    options = ["--level", "19", "--part-size", "64KiB"]
    process, mark = program.start("backup", f"sqlite://{big_shop}", program.storage, *options)
    wait_for(lambda: parts_in(program), "the first part")
    assert stop(process, mark, signal.SIGKILL).code == -signal.SIGKILL
    wait_for(lambda: not running(mark), "the children to end", seconds=10)
    assert program.listed() == []
    program.backup(f"sqlite://{big_shop}")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["INT", "TERM", "KILL"])
def test_a_stopped_restore_leaves_the_target_alone(program: Program, big_shop: Path, signum: int) -> None:
    """A signal in the middle of replacing a database: the old one stays whole, and only kill -9 leaves a file."""
    backup = program.backup(f"sqlite://{big_shop}", "--level", "1")["backup"]
    target = program.home / "target" / "live.db"
    target.parent.mkdir()
    target.write_bytes(b"")
    before = target.stat()
    process, mark = program.start("restore", backup, f"sqlite://{target}", "--drop-existing")
    wait_for(lambda: len(list(target.parent.iterdir())) > 1, "the restore to begin")
    outcome = stop(process, mark, signum)
    assert outcome.code == (-signum if signum == signal.SIGKILL else 128 + signum), outcome
    wait_for(lambda: not running(mark), "the children to end", seconds=10)
    after = target.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, 0)
    if signum != signal.SIGKILL:
        assert list(target.parent.iterdir()) == [target]
        assert "the target is as it was" in outcome.err


def test_a_stopped_verify_says_so(program: Program, big_shop: Path) -> None:
    """Verify can be stopped too; it changes nothing, and never claims that the backup is good."""
    backup = program.backup(f"sqlite://{big_shop}", "--part-size", "64KiB")["backup"]
    process, mark = program.start("verify", "--deep", backup)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("verifying big")
    outcome = stop(process, mark, signal.SIGINT)
    assert outcome.code == 130
    assert "good" not in outcome.out
