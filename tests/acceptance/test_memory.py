"""Peak memory of backup, verify and restore, as the kernel counted it: bounded, and flat in the amount of data."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from tests.cli.program import Outcome, Program, finished

MIB = 1024 * 1024
MOST_BYTES = 200 * MIB
SMALL_FILES, BIG_FILES = 2, 20
FILE_BYTES = 20 * MIB


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


def make_tree(folder: Path, count: int) -> str:
    """Files that no compression makes smaller."""
    folder.mkdir()
    chooser = random.Random(count)
    for number in range(count):
        (folder / str(number)).write_bytes(chooser.randbytes(FILE_BYTES))
    return f"files://{folder}"


@pytest.mark.timeout(300)
def test_memory_is_bounded_and_flat(program: Program, tmp_path: Path) -> None:
    """With parts of the default size, 400 MB that do not compress stay below 200 MiB in every verb."""
    peaks: dict[str, list[int]] = {"backup": [], "verify": [], "restore": []}
    for count in (SMALL_FILES, BIG_FILES):
        source = make_tree(tmp_path / f"tree{count}", count)
        highest, outcome = peak(program, "backup", source, program.storage, "--json")
        peaks["backup"].append(highest)
        backup = outcome.json["backup"]
        peaks["verify"].append(peak(program, "verify", "--deep", backup)[0])
        peaks["restore"].append(peak(program, "restore", backup, f"files://{tmp_path}/back{count}")[0])
    shown = {verb: [f"{value / MIB:.0f} MiB" for value in values] for verb, values in peaks.items()}
    print(shown)  # noqa: T201 -- for whoever wonders how close it is
    assert all(value < MOST_BYTES for values in peaks.values() for value in values), shown
