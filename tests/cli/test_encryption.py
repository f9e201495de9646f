"""Encrypted backups by the program: keys, words, exit codes, and what is left when it is killed."""

from __future__ import annotations

import os
import random
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.cli.program import Program, finished, wait_for
from tests.engines.conformance import watched_command_lines

PASSPHRASE = "correct horse battery staple"
SHAPE = {"format": "age", "passphrase": False}


@pytest.fixture
def key(program: Program, tmp_path: Path) -> tuple[Path, str]:
    """A key pair that the program made: the private key's file, the public key."""
    file = tmp_path / "key"
    return file, program.run("key", "generate", str(file), "--json").json["recipient"]


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_text(f"{PASSPHRASE}\n")
    file.chmod(0o600)
    return file


def test_a_key_is_made_once(program: Program, key: tuple[Path, str]) -> None:
    """Nobody else may read it, it is not shown, and a second one does not replace it."""
    file, public = key
    content = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f"# public key: {public}\nAGE-SECRET-KEY-1" in content
    again = program.run("key", "generate", str(file))
    assert (again.code, file.read_text()) == (2, content)
    assert "exists already" in again.err
    other = program.run("key", "generate", str(file.with_name("other")))
    assert other.code == 0
    assert "age1" in other.out
    assert "AGE-SECRET-KEY" not in other.out + other.err
    dangling = file.with_name("link")
    dangling.symlink_to(file.with_name("nowhere"))
    assert program.run("key", "generate", str(dangling)).code == 2
    assert program.run("key", "generate", str(file.parent / "no" / "key")).code == 2


def test_without_the_key_nothing_is_called_good(
    program: Program, key: tuple[Path, str], tree: Path, tmp_path: Path
) -> None:
    """Listed with whom it is for; verified as far as that goes; deeper it is 'not checked'; not restored."""
    file, public = key
    taken = program.backup(f"files://{tree}", "--recipient", public)
    backup = taken["backup"]
    assert taken["encryption"] == SHAPE | {"recipients": [public]}
    assert program.listed()[0]["encryption"] == taken["encryption"]
    assert f"encrypted for {public}" in program.run("list", program.storage).out
    assert program.run("verify", backup, "--json").json["ok"] is True
    shallow = program.run("verify", "--deep", backup, "--json")
    assert (shallow.code, shallow.json["ok"], shallow.json["level"]) == (5, None, "stored")
    assert "no key was given" in shallow.json["not_checked"]
    shown = program.run("verify", "--deep", backup)
    assert (shown.code, "NOT CHECKED" in shown.out, "is good" in shown.out) == (5, True, False)
    everything = program.run("verify", "--all", "--deep", program.storage, "--json")
    assert (everything.code, everything.json["ok"], everything.json["unchecked"]) == (5, False, 1)
    assert everything.json["backups"][0]["ok"] is None
    refused = program.run("restore", backup, f"files://{tmp_path}/back", "--json")
    assert (refused.code, refused.json["error"]) == (5, "key_needed")
    assert not (tmp_path / "back").exists()
    program.run("key", "generate", str(tmp_path / "wrong"))
    wrong = ("--identity-file", str(tmp_path / "wrong"))
    refused = program.run("restore", backup, f"files://{tmp_path}/back", "--json", *wrong)
    assert (refused.code, refused.json["error"]) == (5, "wrong_key")
    assert not (tmp_path / "back").exists()
    assert program.run("verify", "--deep", backup, *wrong).code == 5
    program.env["DATAGUARDIAN_IDENTITY_FILE"] = str(file)
    assert program.run("verify", "--all", "--deep", program.storage).code == 0
    assert program.run("restore", backup, f"files://{tmp_path}/back").code == 0
    assert (tmp_path / "back" / "two.log").read_text() == "two\n"


def test_a_backup_in_clear_where_one_is_expected_to_be_encrypted_is_told(
    program: Program, key: tuple[Path, str], tree: Path, tmp_path: Path
) -> None:
    """Whoever gives a key thinks that the backup is sealed for it; anybody could have put another one there."""
    backup = program.backup(f"files://{tree}")["backup"]
    assert "not encrypted" not in program.run("restore", backup, f"files://{tmp_path}/one").err
    told = program.run("restore", backup, f"files://{tmp_path}/two", "--identity-file", str(key[0]))
    assert (told.code, "a key was given, and this backup is not encrypted" in told.err) == (0, True)


def test_a_passphrase_is_nowhere(program: Program, passphrase_file: Path, shop: Path, tmp_path: Path) -> None:
    """It reaches no command line, output or object; a backup that it guards restores with it."""
    with watched_command_lines() as seen:
        taken = program.backup(f"sqlite://{shop}", "--passphrase-file", str(passphrase_file))
        wanted = ("--passphrase-file", str(passphrase_file))
        outcome = program.run("restore", taken["backup"], f"sqlite://{tmp_path}/back.db", *wanted)
    assert outcome.code == 0, outcome
    assert taken["encryption"]["passphrase"] is True
    assert not any(PASSPHRASE.encode() in line for line in seen)
    held = b"".join(path.read_bytes() for path in (tmp_path / "storage").rglob("*") if path.is_file())
    assert PASSPHRASE.encode() not in held
    assert b"AGE-SECRET-KEY" not in held
    assert PASSPHRASE not in str(taken) + outcome.out + outcome.err


WRONG = {
    "no key": (["--recipient", "me"], "not a recipient"),
    "empty": (["--recipient", ""], "not a recipient"),
    "an option": (["--recipient=--output"], "not a recipient"),
    "both": (["--recipient", "age1x", "--passphrase-file", "{passphrase}"], "a passphrase and recipients"),
    "no file": (["--recipients-file", "{home}/none"], "cannot be read"),
    "empty file": (["--recipients-file", "/dev/null"], "recipients are needed"),
    "endless file": (["--recipients-file", "/dev/zero"], "larger than any"),
    "short": (["--passphrase-file", "{short}"], "passphrase"),
    "secret": (["--recipients-file", "{key}"], "private key"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_key_is_refused_at_once(  # noqa: PLR0917 -- fixtures, by name
    program: Program, key: tuple[Path, str], passphrase_file: Path, tree: Path, arguments: list[str], words: str
) -> None:
    """Before anything is read or stored; a private key that was given by mistake is not repeated."""
    short = passphrase_file.with_name("short")
    short.write_text("short\n")
    given = {"home": program.home, "passphrase": passphrase_file, "short": short, "key": key[0]}
    outcome = program.run("backup", f"files://{tree}", program.storage, *(text.format(**given) for text in arguments))
    assert outcome.code == 2, outcome
    assert words in outcome.err
    assert "AGE-SECRET-KEY-1" not in outcome.err
    assert program.stored == []


def test_keys_of_others_to_read_are_warned_of(program: Program, key: tuple[Path, str], tree: Path) -> None:
    """As passwords are."""
    file, public = key
    backup = program.backup(f"files://{tree}", "--recipient", public)["backup"]
    file.chmod(0o644)
    outcome = program.run("verify", "--deep", backup, "--identity-file", str(file))
    assert outcome.code == 0
    assert "chmod 600" in outcome.err


def test_an_identity_file_that_is_none_is_named(program: Program, tree: Path, tmp_path: Path) -> None:
    """Also for a backup in clear, which needs none: somebody is mistaken."""
    backup = program.backup(f"files://{tree}")["backup"]
    (tmp_path / "junk").write_text("AGE-SECRET-KEY-1OOPS\n")
    outcome = program.run("restore", backup, f"files://{tmp_path}/back", "--identity-file", str(tmp_path / "junk"))
    assert (outcome.code, "junk cannot be used" in outcome.err, "OOPS" in outcome.err) == (2, True, False)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_backup_is_none(
    program: Program, key: tuple[Path, str], tmp_path: Path, signum: signal.Signals
) -> None:
    """Torn apart among its parts: nothing is listed; what could be removed was."""
    folder = tmp_path / "noise"
    folder.mkdir()
    for number in range(8):
        (folder / str(number)).write_bytes(random.Random(number).randbytes(8 << 20))
    process, mark = program.start(
        "backup", f"files://{folder}", program.storage, "--recipient", key[1], "--part-size", "64KiB"
    )
    wait_for(lambda: any(name.endswith(".age") for name in program.stored), "the first part")
    time.sleep(0.05)
    os.kill(process.pid, signum)
    outcome = finished(process, mark)
    assert outcome.code != 0
    assert program.listed() == []
    if signum is signal.SIGTERM:
        assert [name for name in program.stored if name.endswith(".age")] == []
