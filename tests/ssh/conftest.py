"""A server for everybody here, and a DataGuardian home for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ssh.sshd import SshServer, ssh_server


@pytest.fixture(scope="session")
def sshd() -> Iterator[SshServer]:
    with ssh_server() as server:
        yield server


@pytest.fixture
def own_sshd() -> Iterator[SshServer]:
    """A server that the test may stop, restart and give other keys."""
    with ssh_server() as server:
        yield server


@pytest.fixture(autouse=True)
def known_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATAGUARDIAN_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "known_hosts"
