"""Encrypted backups where the key is not: several storages, repairs and checks of whole storages, without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.cli.test_targets import objects

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(params=["recipient", "passphrase"])
def guard(request: pytest.FixtureRequest, program: Program) -> tuple[list[str], list[str]]:
    """Options that encrypt, and those that decrypt: a public key and its private key, or a passphrase twice."""
    file = program.home / "key"
    if request.param == "recipient":
        public = program.run("key", "generate", str(file), "--json").json["recipient"]
        return ["--recipient", public], ["--identity-file", str(file)]
    file.write_text(PASSPHRASE + "\n")
    file.chmod(0o600)
    return ["--passphrase-file", str(file)], ["--passphrase-file", str(file)]


def folder(program: Program, name: str) -> Path:
    path = program.home / name
    path.mkdir()
    return path


def harmed(part: Path) -> None:
    data = part.read_bytes()
    part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_several_storages_hold_the_same_sealed_bytes(
    program: Program, tree: Path, guard: tuple[list[str], list[str]]
) -> None:
    """Sealed once for all; each copy opens with the key; repairs and checks of stored bytes need none; rot is found."""
    encrypt, decrypt = guard
    second, third = folder(program, "second"), folder(program, "third")
    made = program.backup(f"files://{tree}", "--also", f"file://{second}", *encrypt)
    assert [target["status"] for target in made["targets"]] == ["stored", "stored"]
    assert objects(second) == objects(program.home / "storage")
    for target in made["targets"]:
        assert program.run("verify", target["backup"]).code == 0
        assert program.run("verify", "--deep", target["backup"], *decrypt).code == 0
    copied = program.run("repair", made["backup"], f"file://{third}", "--json")
    assert (copied.code, objects(third)) == (0, objects(second))
    harmed(next(third.rglob("000001.*")))
    for deep in ([], ["--deep"]):
        told = program.run("verify", "--all", f"file://{third}", *deep, "--json")
        assert (told.code, told.json["damaged"], told.json["unchecked"]) == (3, 1, 0)
    again = program.run("repair", made["backup"], f"file://{third}", "--json")
    assert (again.code, again.json["copied"], objects(third)) == (0, 1, objects(second))
    backup = copied.json["backup"]
    restored = program.run("restore", backup, f"files://{program.home}/back", *decrypt)
    assert restored.code == 0, restored
    assert (program.home / "back" / "two.log").read_text() == "two\n"


def test_the_first_storage_that_works_gets_sealed_bytes(
    program: Program, tree: Path, guard: tuple[list[str], list[str]]
) -> None:
    """A way round leads nowhere in clear: what the second storage holds is encrypted as the first one's would be."""
    encrypt, decrypt = guard
    second = folder(program, "second")
    address = f"file://{program.home}/nowhere"
    arguments = ("--also", f"file://{second}", "--strategy", "fallback", *encrypt, "--json")
    made = program.run("backup", f"files://{tree}", address, *arguments)
    assert made.code == 0, made
    assert any(name.endswith(".age") for name in objects(second))
    assert not any(b"two\n" in data for data in objects(second).values())
    assert program.run("verify", "--deep", made.json["backup"], *decrypt).code == 0


def test_a_whole_storage_is_checked_as_far_as_that_goes(
    program: Program, tree: Path, guard: tuple[list[str], list[str]]
) -> None:
    """Backups in clear beside encrypted ones: all stored bytes are good without a key, and deeper that is said of those
    in clear alone; the others are told to be unchecked, with the reason, and nothing to be damaged.
    """
    encrypt, decrypt = guard
    plain = program.backup(f"files://{tree}", "--name", "plain")["backup"]
    sealed = program.backup(f"files://{tree}", "--name", "sealed", *encrypt)["backup"]
    stored = program.run("verify", "--all", program.storage, "--json")
    assert (stored.code, stored.json["ok"], stored.json["good"], stored.json["level"]) == (0, True, 2, "stored")
    deep = program.run("verify", "--all", "--deep", program.storage, "--json")
    assert (deep.code, deep.json["ok"], deep.json["errors"]) == (5, False, [])
    counted = [deep.json[name] for name in ("good", "damaged", "unchecked", "gone")]
    assert counted == [1, 0, 1, 0]
    told = {entry["backup"]: entry for entry in deep.json["backups"]}
    assert (told[plain]["ok"], told[sealed]["ok"], told[sealed]["level"]) == (True, None, "stored")
    assert "no key was given" in told[sealed]["reason"]
    shown = program.run("verify", "--all", "--deep", program.storage)
    assert "some backups could NOT be checked" in shown.out
    assert "DAMAGED" not in shown.out
    assert program.run("verify", "--all", "--deep", program.storage, *decrypt).code == 0
