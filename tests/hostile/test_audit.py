from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _environment(folder: Path, pip: str) -> Path:
    """Makes a folder of programs whose Python runs `pip` in the place of pip; everything else is the real one's."""
    folder.mkdir()
    program = folder / "python"
    program.write_text(f'#!/bin/sh\n[ "$1 $2" = "-m pip" ] && {{ {pip}; }}\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("pip", "code", "says"),
    [
        ("echo No broken requirements found.; exit 0", 3, "NOT AUDITED"),
        ("echo x 1.0 requires y, which is not installed.; exit 1", 1, ""),
    ],
)
def test_an_audit_without_a_network_says_so(tmp_path: Path, pip: str, code: int, says: str) -> None:
    """Broken requirements fail with 1; an index that cannot be reached is told in a clear line, and by 3: nobody takes
    it for good news, and whoever works offline can tell it from bad news.
    """
    programs = _environment(tmp_path / "bin", pip)
    unreachable = {"PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    unreachable |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = subprocess.run(
        [str(ROOT / ".ci" / "audit"), str(programs)],
        env={**os.environ, **unreachable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr


def test_every_silenced_rule_of_security_has_a_reason() -> None:
    """Ruff's S rules hold in all of the program; where one does not, the line says why."""
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / "src").rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if ("# noqa" in line or "# ruff: noqa" in line) and " -- " not in line.partition("noqa")[2]
    ]
    assert bare == []
