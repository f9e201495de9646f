"""Bad input: each with its exit code, a clear message, nothing left behind, and no secret anywhere."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.program import Outcome, Program
from tests.conftest import missing

SECRET = "Hunter2-Hunter2"


def refused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_error(program: Program, code: int, error: str, *arguments: str) -> Outcome:
    """The same failure told twice: with a hint on standard error, and as one JSON object."""
    told = program.run(*arguments)
    assert told.code == code, told
    assert told.err.lstrip().startswith("error: ") or "\nerror: " in told.err, told
    assert told.out == ""
    document = program.run(*arguments, "--json")
    assert document.code == code, document
    assert sorted(document.json) == ["details", "error", "message"]
    assert document.json["error"] == error
    assert "Traceback" not in told.err + document.err
    return told


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small filesystem in memory; only root can mount one."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        missing("the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["backup", "oracle://u:{s}@h/d", "{st}"], "known:"),
        (["backup", "file:///etc", "{st}"], "is the address of a storage"),
        (["backup", "files:///etc", "sqlite:///x.db"], "is the address of a source"),
        (["list", "ftp://u:{s}@h/d"], "known:"),
        (["verify", "gopher://x/a/b"], "known:"),
    ],
)
def test_unknown_schemes(program: Program, arguments: list[str], hint: str) -> None:
    """An address of an unknown or of the other kind is named as such, with the ones that are known."""
    given = [argument.format(s=SECRET, st=program.storage) for argument in arguments]
    told = check_error(program, 2, "unknown_scheme", *given)
    assert hint in told.err
    assert SECRET not in told.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["backup", "/etc/hosts", "{st}"],
        ["backup", "files:///etc", "./storage"],
        ["backup", "files:///etc"],
        ["backup", "files:///etc", "{st}", "surplus"],
        ["backup", "files:///etc", "{st}", "--level", "high"],
        ["backup", "files:///etc", "{st}", "--level", "77"],
        ["backup", "files:///etc", "{st}", "--compression", "rar"],
        ["backup", "files:///etc", "{st}", "--part-size", "16 bananas"],
        ["backup", "files:///etc", "{st}", "--part-size", "1KiB"],
        ["backup", "files:///etc", "{st}", "--name", "  "],
        ["backup", "files:///etc", "{st}", "--name", "two\nlines"],
        ["backup", "files:///etc", "{st}", "--name", "odd\udcff"],
        ["backup", "files:///etc", "{st}", "--password-file", "/nonexistent"],
        ["list", "not-an-address"],
        ["list", "file://relative/folder"],
        ["list", "{st}", "--unknown"],
        ["verify", "file:///"],
        ["verify", "file:///only"],
        ["restore", "{st}/a/../b", "files:///tmp/x"],
        ["frobnicate"],
    ],
)
def test_wrong_usage(program: Program, arguments: list[str]) -> None:
    """Wrong options, missing arguments and malformed addresses exit 2 and leave nothing."""
    check_error(program, 2, "wrong_usage", *(argument.format(st=program.storage) for argument in arguments))
    assert program.stored == []


@pytest.mark.parametrize(
    ("path", "meant"), [("/etc", "files:///etc"), ("/etc/hosts", "sqlite:///etc/hosts"), ("~/x y", "/x%20y ?")]
)
def test_a_bare_path_is_answered_with_its_address(program: Program, path: str, meant: str) -> None:
    """Who types a path is shown the address that was probably meant."""
    assert meant in program.run("backup", path, program.storage).err


@pytest.mark.parametrize(
    "arguments",
    [
        ["backup", "sqlite://{home}/none.db", "{st}"],
        ["backup", "files://{home}/none", "{st}"],
        ["verify", "{st}/none/none"],
        ["restore", "{st}/none/none", "sqlite://{home}/x.db"],
    ],
)
def test_what_is_not_there(program: Program, arguments: list[str]) -> None:
    """A source or a backup that does not exist exits 5."""
    given = [argument.format(home=program.home, st=program.storage) for argument in arguments]
    check_error(program, 5, "not_found", *given)
    assert program.stored == []


@pytest.mark.parametrize("verb", ["backup", "list"])
def test_a_missing_storage(program: Program, tree: Path, verb: str) -> None:
    """A storage folder that is not there (not mounted?) is an error, and is not created."""
    nowhere = program.home / "nowhere"
    source = [f"files://{tree}"] if verb == "backup" else []
    check_error(program, 5, "storage_unreachable", verb, *source, f"file://{nowhere}")
    assert not nowhere.exists()


def test_a_read_only_storage(program: Program, tree: Path) -> None:
    """A storage that may only be read exits 5 and keeps what it holds."""
    folder = program.home / "storage"
    folder.chmod(0o555)
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"] if os.geteuid() == 0 else []
    outcome = program.run("backup", f"files://{tree}", program.storage, "--json", prefix=prefix)
    assert (outcome.code, outcome.json["error"]) == (5, "storage_denied"), outcome
    assert program.stored == []


def test_a_full_storage(program: Program) -> None:
    """A backup that does not fit exits 1, says so, and takes back what it had stored."""
    big = program.home / "big"
    big.mkdir()
    (big / "noise").write_bytes(os.urandom(8 << 20))
    with mounted(program.home / "small", "size=4m") as small:
        told = check_error(
            program, 1, "storage_full", "backup", f"files://{big}", f"file://{small}", "--part-size", "1M"
        )
        assert list(small.rglob("*")) == []
    assert "Traceback" not in told.err


def test_a_full_disk_at_the_target(program: Program) -> None:
    """A restore that does not fit exits 1 and leaves nothing."""
    big = program.home / "big"
    big.mkdir()
    (big / "noise").write_bytes(os.urandom(8 << 20))
    backup = program.backup(f"files://{big}")["backup"]
    with mounted(program.home / "small", "size=4m") as small:
        check_error(program, 1, "disk_full", "restore", backup, f"files://{small}/inside")
        assert list(small.rglob("*")) == []


def test_a_missing_client_program(program: Program, tree: Path) -> None:
    """Without the client program the backup exits 4 and names what to install."""
    empty = program.home / "empty"
    empty.mkdir()
    program.env["PATH"] = str(empty)
    told = check_error(program, 4, "missing_tool", "backup", f"files://{tree}", program.storage)
    assert "tar" in told.err


def test_nothing_answers(program: Program) -> None:
    """A server that is not there exits 5, without the password that was in the address."""
    source = f"postgresql://app:{SECRET}@127.0.0.1:{refused_port()}/shop"
    told = check_error(program, 5, "unreachable", "backup", source, program.storage)
    assert SECRET not in told.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["backup", "postgresql://u:{s}@127.0.0.1:1/d?sslmode=nonsense", "{st}"],
        ["backup", "postgresql://u:{s}@127.0.0.1:notaport/d", "{st}"],
        ["backup", "postgresql://u:{s}/with/slashes@127.0.0.1/d", "{st}"],
        ["backup", "{st}", "surplus", "postgresql://u:{s}@127.0.0.1/d"],
        ["backup", "--level", "postgresql://u:{s}@127.0.0.1/d", "files:///etc", "{st}"],
        ["backup", "--postgresql://u:{s}@127.0.0.1/d"],
        ["postgresql://u:{s}@127.0.0.1/d"],
        ["list", "postgresql://u:{s}@127.0.0.1/d"],
        ["restore", "{st}/a/b", "postgresql://u:{s}@127.0.0.1:1/d"],
        ["verify", "file://u:{s}@host/a/b"],
    ],
)
def test_no_error_repeats_a_password(program: Program, arguments: list[str]) -> None:
    """Wherever an address with a password is misplaced, no message, hint or trace shows the password."""
    program.env["DATAGUARDIAN_DEBUG"] = "1"
    given = [argument.format(s=SECRET, st=program.storage) for argument in arguments]
    for outcome in (program.run(*given), program.run(*given, "--json")):
        assert outcome.code in (2, 5)
        assert SECRET not in outcome.out + outcome.err


def test_a_password_file_that_others_read_is_warned_of(program: Program) -> None:
    """The first line of --password-file is the password; a file that is open to others gets a warning."""
    secret = program.home / "secret"
    secret.write_text(f"{SECRET}\nsecond line\n")
    secret.chmod(0o644)
    source = f"postgresql://app@127.0.0.1:{refused_port()}/shop"
    outcome = program.run("backup", source, program.storage, "--password-file", str(secret))
    assert outcome.code == 5
    assert "warning: other users may read" in outcome.err
    secret.chmod(0o600)
    outcome = program.run("backup", source, program.storage, "--password-file", str(secret))
    assert "warning" not in outcome.err
    assert SECRET not in outcome.err


def test_a_password_for_a_folder_is_refused(program: Program, tree: Path) -> None:
    """--password-file for a source without passwords is a mistake that is told."""
    secret = program.home / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    told = check_error(
        program, 2, "wrong_usage", "backup", f"files://{tree}", program.storage, "--password-file", str(secret)
    )
    assert "takes no password" in told.err


def test_a_bug_is_told_without_a_stack_trace(program: Program) -> None:
    """What nobody foresaw still ends in one sentence and exit code 1; the trace comes only when it is asked for."""
    broken = program.home / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "from dataguardian.core import catalog\n"
        "def list_backups(storage): raise KeyError('boom')\n"
        "catalog.list_backups = list_backups\n"
    )
    program.env["PYTHONPATH"] = str(broken)
    told = check_error(program, 1, "failed", "list", program.storage)
    assert "unexpected KeyError: 'boom'" in told.err
    program.env["DATAGUARDIAN_DEBUG"] = "1"
    assert "Traceback" in program.run("list", program.storage).err


def test_control_characters_do_not_reach_the_terminal(program: Program, tree: Path) -> None:
    """A folder's name cannot steer the terminal that lists its backups."""
    odd = tree.parent / "odd\x1b[31m"
    tree.rename(odd)
    source = f"files://{tree.parent}/odd%1B[31m"
    outcome = program.run("backup", source, program.storage)
    assert outcome.code == 0, outcome
    assert "\x1b" not in outcome.out + outcome.err + program.run("list", program.storage).out
