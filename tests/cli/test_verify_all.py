"""`dataguardian verify --all STORAGE`, as its users run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import Program


def test_all_backups_of_a_storage_are_checked(program: Program, tree: Path, shop: Path) -> None:
    """Good ones give 0 and a table; one flipped bit gives 3, the backup's name, and the same in one JSON object."""
    first = program.backup(f"files://{tree}", "--name", "first")["backup"]
    second = program.backup(f"sqlite://{shop}", "--name", "second")["backup"]
    good = program.run("verify", "--all", program.storage)
    assert good.code == 0, good
    assert good.out.count(" good ") >= 2
    deep = program.run("verify", "--all", program.storage, "--deep", "--json")
    assert [(entry["backup"], entry["ok"], entry["outcome"]) for entry in deep.json["backups"]] == [
        (first, True, "good"),
        (second, True, "good"),
    ]
    assert (deep.json["ok"], deep.json["level"], deep.json["good"]) == (True, "deep", 2)
    part = next(Path(second.removeprefix("file://")).rglob("000001.zst"))
    part.write_bytes(part.read_bytes()[:-1] + bytes([part.read_bytes()[-1] ^ 1]))
    bad = program.run("verify", "--all", program.storage)
    assert bad.code == 3
    assert "DAMAGED" in bad.out
    assert "warning: second/" in bad.err
    told = program.run("verify", program.storage, "--all", "--json")
    assert (told.code, told.json["ok"], told.json["damaged"], told.err) == (3, False, 1, "")
    assert [entry["ok"] for entry in told.json["backups"]] == [True, False]
    assert all(error.startswith("second/") for error in told.json["errors"])


def test_a_storage_that_is_not_there_is_not_rot(program: Program) -> None:
    """Exit code 5, as for every storage that cannot be reached."""
    outcome = program.run("verify", "--all", f"{program.storage}/nowhere", "--json")
    assert (outcome.code, outcome.json["error"]) == (5, "storage_unreachable")


@pytest.mark.parametrize("options", [["--all", "--sample", "0"], ["--all", "--sample", "nan"], ["--sample", "10"]])
def test_a_sample_must_make_sense(program: Program, options: list[str]) -> None:
    """A percentage of nothing, of what is no number, or of one backup is refused."""
    outcome = program.run("verify", program.storage, *options)
    assert outcome.code == 2
    assert "--sample" in outcome.err
