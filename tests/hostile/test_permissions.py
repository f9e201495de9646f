from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.service import Service, cleared, short_folder


@pytest.fixture
def generous() -> Iterator[None]:
    """A shell that lets everybody read and write whatever is made."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def service(generous: None) -> Iterator[Service]:
    folder = short_folder()
    found = Service(folder / "not" / "there" / "yet")
    found.folder.mkdir(parents=True, mode=0o755)
    yield found
    if found.process is not None:
        found.stop()
    cleared(folder)


def _open_to_others(top: Path) -> list[str]:
    """Returns what somebody else could read, write or enter."""
    found = [path for path in [top, *top.rglob("*")] if not path.is_symlink()]
    assert found
    return [f"{stat.filemode(path.stat().st_mode)} {path}" for path in found if path.stat().st_mode & 0o077]


def test_nothing_that_the_service_writes_is_open_to_others(service: Service) -> None:
    """Home, its parents, catalogue, queue, lock files, socket, staging, stored backups, exports: 0600 and 0700,
    though the umask would allow everything.
    """
    home = service.folder / "parent" / "home"
    staging = service.folder / "staging"
    staging.mkdir(mode=0o700)
    service.env |= {"DATAGUARDIAN_HOME": str(home), "DATAGUARDIAN_STAGING_DIR": str(staging)}
    service.start()
    job = service.prepared()
    service.backup(job.name)
    export = service.folder / "export.yaml"
    service.told("export", "--out", str(export))
    assert _open_to_others(home.parent) == []
    assert _open_to_others(staging) == []
    assert _open_to_others(export) == []
    stored = [path for path in job.disk.rglob("*") if path.is_file()]
    assert len(stored) >= 4
    assert [problem for path in job.disk.iterdir() for problem in _open_to_others(path)] == []
    assert (home / "catalogue.db").exists()
    assert list(home.rglob("*.aof*"))
    assert any(stat.S_ISSOCK(path.stat().st_mode) for path in home.rglob("*"))
