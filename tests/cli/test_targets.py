"""Several storages on the command line: identical copies, a storage that is away or full, ways round, and repairs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.conftest import missing


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A storage folder on a disk of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        missing("root, to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def source(program: Program) -> str:
    folder = program.home / "source"
    folder.mkdir()
    (folder / "noise").write_bytes(os.urandom(6 * 1024 * 1024))
    return f"files://{folder}"


def objects(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/**/*") if path.is_file()}


def test_a_backup_to_two_storages(program: Program, source: str) -> None:
    """One dump, two storages with the same bytes; the answer names both, and each verifies."""
    second = program.home / "second"
    second.mkdir()
    made = program.backup(source, "--also", f"file://{second}", "--part-size", "1MiB")
    assert (made["status"], [target["status"] for target in made["targets"]]) == ("completed", ["stored"] * 2)
    assert objects(second) == objects(program.home / "storage")
    for target in made["targets"]:
        assert program.run("verify", target["backup"]).code == 0


def test_a_full_disk_leaves_the_other_copy_whole(program: Program, source: str, small: Path) -> None:
    """A disk that fills up in the middle: exit code 1, what is behind and how to repair it; the repair then copies."""
    told = program.run("backup", source, program.storage, "--also", f"file://{small}", "--part-size", "1MiB")
    assert told.code == 1
    assert "is PARTIAL" in told.out
    assert f"file://{small} does not hold it" in told.err
    [kept] = program.listed()
    assert f"dataguardian repair {kept['backup']} file://{small}" in told.out
    assert program.run("verify", "--deep", kept["backup"]).code == 0
    assert program.run("list", f"file://{small}", "--json").json["backups"] == []
    assert program.run("repair", kept["backup"], f"file://{small}").code == 1
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    repaired = program.run("repair", kept["backup"], f"file://{small}", "--json")
    assert repaired.code == 0, repaired
    assert 0 < repaired.json["copied"] < repaired.json["parts"]
    assert objects(small) == objects(program.home / "storage")


def test_fallback_says_which_way_it_went(program: Program, source: str) -> None:
    """The first storage is not there: the second has the backup, exit code 0, and a warning."""
    told = program.run(
        "backup", source, f"file://{program.home}/nowhere", "--also", program.storage, "--strategy", "fallback"
    )
    assert told.code == 0, told
    assert f"file://{program.home}/nowhere did not take the backup" in told.err
    assert len(program.listed()) == 1


def test_nothing_is_left_when_no_storage_takes_it(program: Program, source: str, small: Path) -> None:
    """Both storages fail: exit code of the failure, words about each, and no object in either."""
    told = program.run("backup", source, f"file://{small}", "--also", f"file://{program.home}/nowhere")
    assert told.code in (1, 5)
    assert "none of the 2 storages took the backup" in told.err
    assert objects(small) == {}


def test_a_storage_that_is_named_twice(program: Program, source: str) -> None:
    """Refused before anything is read."""
    assert program.run("backup", source, program.storage, "--also", program.storage).code == 2
    assert program.stored == []


def test_a_backup_keeps_to_a_bandwidth(program: Program, source: str) -> None:
    """6 MiB in parts of 1 MiB at 20 megabits per second take two seconds at least, to each of two storages."""
    second = program.home / "second"
    second.mkdir()
    arguments = ("--part-size", "1MiB", "--bandwidth-limit", "20")
    assert program.backup(source, *arguments)["duration_seconds"] >= 2
    assert program.backup(source, *arguments, "--also", f"file://{second}")["duration_seconds"] >= 2


@pytest.mark.parametrize("rate", ["-1", "nan", "inf"])
def test_a_bandwidth_that_is_none(program: Program, source: str, rate: str) -> None:
    """Refused before anything is read."""
    told = program.run("backup", source, program.storage, "--bandwidth-limit", rate)
    assert (told.code, "is no bandwidth" in told.err) == (2, True)
