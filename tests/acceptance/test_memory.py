"""Peak memory of backup, verify and restore, as the kernel counted it: bounded, whatever the size of a part."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from tests.cli.program import Outcome, Program, finished

MIB = 1024 * 1024
MOST_BYTES = 200 * MIB
FILES, FILE_BYTES = 20, 20 * MIB


def peak(program: Program, *arguments: str) -> tuple[int, Outcome]:
    """Returns the program's own VmHWM in bytes, seen last before its end, and its outcome."""
    process, mark = program.start(*arguments)
    highest = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        if found := re.search(r"VmHWM:\s*(\d+) kB", status):
            highest = max(highest, int(found[1]) * 1024)
        time.sleep(0.01)
    outcome = finished(process, mark)
    assert outcome.code == 0, outcome
    return highest, outcome


def make_tree(folder: Path) -> str:
    """Files that no compression makes smaller."""
    folder.mkdir()
    chooser = random.Random(1)
    for number in range(FILES):
        (folder / str(number)).write_bytes(chooser.randbytes(FILE_BYTES))
    return f"files://{folder}"


def guarded(program: Program, key: Path, guard: str) -> tuple[list[str], list[str]]:
    """Makes a key or a passphrase; returns the options that encrypt for it, and those that decrypt with it."""
    if guard == "recipient":
        recipient = program.run("key", "generate", str(key), "--json").json["recipient"]
        return ["--recipient", recipient], ["--identity-file", str(key)]
    key.write_text("correct horse battery\n")
    return ["--passphrase-file", str(key)], ["--passphrase-file", str(key)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part_size", ["16MiB", "32MiB"])
def test_memory_is_bounded(program: Program, tmp_path: Path, part_size: str) -> None:
    """400 MB that do not compress stay below 200 MiB in every verb, also with big parts."""
    source = make_tree(tmp_path / "tree")
    backing_up, outcome = peak(program, "backup", source, program.storage, "--json", "--part-size", part_size)
    backup = outcome.json["backup"]
    verifying, _ = peak(program, "verify", "--deep", backup)
    restoring, _ = peak(program, "restore", backup, f"files://{tmp_path}/back")
    assert max(backing_up, verifying, restoring) < MOST_BYTES, (backing_up, verifying, restoring)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guard", ["recipient", "passphrase"])
def test_memory_is_bounded_when_encrypted(program: Program, tmp_path: Path, guard: str) -> None:
    """The same with parts that are sealed, and with a passphrase that is stretched beforehand."""
    source = make_tree(tmp_path / "tree")
    encrypt, decrypt = guarded(program, tmp_path / "key", guard)
    backing_up, outcome = peak(program, "backup", source, program.storage, "--json", *encrypt)
    backup = outcome.json["backup"]
    verifying, _ = peak(program, "verify", "--deep", backup, *decrypt)
    restoring, _ = peak(program, "restore", backup, f"files://{tmp_path}/back", *decrypt)
    assert max(backing_up, verifying, restoring) < MOST_BYTES, (backing_up, verifying, restoring)
