"""A valid backup, its hashes right, whose archive was written by hand to harm whoever restores it."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dataguardian.core.backup import run_backup
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.storage.retrying import wrap
from tests.conftest import require_tool
from tests.core.bytes_engine import BytesEngine, BytesStream, plan


def archive(*entries: tuple[str, bytes, int, str]) -> bytes:
    """Returns an archive of entries of (name, kind, mode, link)."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, mode, link in (("./", tarfile.DIRTYPE, 0o755, ""), *entries):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname = kind, mode, link
            info.uid, info.gid, info.devmajor, info.devminor = os.getuid(), os.getgid(), 8, 0
            content = b"#!/bin/sh\nid\n" if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def planted(storage: Path, data: bytes) -> str:
    """Stores the archive as what it pretends to be, a backup of files, with every hash right; returns its address."""
    require_tool("tar")
    storage.mkdir()
    engine = BytesEngine(BytesStream("tree", data, kind="tar"))
    location = wrap(LocalStorage(LocalConfig(path=str(storage))))
    return f"file://{storage}/{run_backup(plan('tree', engine='files'), engine, location).directory}"


def restored(address: str, target: Path, query: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "dataguardian", "restore", address, f"files://{target}{query}"]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "entry",
    [
        ("../victim", tarfile.REGTYPE, 0o644, ""),
        ("./hard", tarfile.LNKTYPE, 0o644, "../victim"),
        ("./hard", tarfile.LNKTYPE, 0o644, "/etc/passwd"),
    ],
    ids=["dots", "hard link out", "hard link to the root"],
)
def test_an_archive_that_leaves_the_target_is_refused(tmp_path: Path, entry: tuple[str, bytes, int, str]) -> None:
    """Its hashes are right, and it is refused all the same: exit 3, nothing is left, nobody else's file is touched."""
    (tmp_path / "victim").write_text("untouched")
    address = planted(tmp_path / "disk", archive(entry))
    done = restored(address, tmp_path / "target")
    assert done.returncode == 3, done.stderr
    assert "would leave the target" in done.stderr
    assert not (tmp_path / "target").exists()
    assert (tmp_path / "victim").read_text() == "untouched"
    assert (tmp_path / "victim").stat().st_nlink == 1


@pytest.mark.parametrize("query", ["", "?restore_privileges=none"], ids=["as it is", "none"])
def test_an_archive_of_a_disk_and_a_program_of_root(tmp_path: Path, query: str) -> None:
    """No disk is there in any case; the set-user-ID program, a mode like others, is not where somebody says none."""
    entries = [("./sda", tarfile.BLKTYPE, 0o666, ""), ("./sh", tarfile.REGTYPE, 0o4755, "")]
    address = planted(tmp_path / "disk", archive(*entries))
    done = restored(address, tmp_path / "target", query)
    assert done.returncode == 0, done.stderr
    assert "sda" in done.stderr
    assert "restore_privileges" in done.stderr
    disk, program = (tmp_path / "target" / "sda").lstat(), (tmp_path / "target" / "sh").lstat()
    assert (stat.S_ISREG(disk.st_mode), stat.S_IMODE(disk.st_mode), disk.st_size) == (True, 0, 0)
    assert stat.S_IMODE(program.st_mode) == (0o755 if query else 0o4755)
