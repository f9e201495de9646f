"""The embedded queue server and its folder: never two servers on one, and the same address after a crash."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from dataguardian.domain.errors import ConflictError
from dataguardian.queues import embedded
from dataguardian.queues.embedded import EmbeddedServer
from tests.faults.service import wait_until


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """The server of a DataGuardian that was killed: it lives, and nobody but itself holds its lock."""
    server = EmbeddedServer(tmp_path / "queue")
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.set("job", "kept")
    assert server._lock is not None
    server._lock.close()
    server._lock = None
    yield server
    if server.alive() and server.pid is not None:
        os.kill(server.pid, signal.SIGCONT)
    server.stop()


def test_an_orphan_is_told_to_end_before_another_server_opens_its_files(orphan: EmbeddedServer, tmp_path: Path) -> None:
    """Both would append to one file. The next server waits for the first one's end, and has all that it had."""
    server = EmbeddedServer(tmp_path / "queue")
    server.start()
    try:
        assert not orphan.alive()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("job") == b"kept"
    finally:
        server.stop()


def test_an_orphan_that_hangs_is_not_joined(
    orphan: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the start is refused, and says where to look; when the orphan has ended it works."""
    monkeypatch.setattr(embedded, "HANDOVER_SECONDS", 1.5)
    assert orphan.pid is not None
    os.kill(orphan.pid, signal.SIGSTOP)
    server = EmbeddedServer(tmp_path / "queue")
    with pytest.raises(ConflictError, match="earlier run") as refused:
        server.start()
    assert "valkey.log" in refused.value.hint
    os.kill(orphan.pid, signal.SIGKILL)
    wait_until(lambda: not orphan.alive(), "the orphan has ended")
    server.start()
    server.stop()


def test_a_server_that_died_comes_back_at_the_same_address(tmp_path: Path) -> None:
    """Also in a folder so deep that its socket lies elsewhere: whoever is connected finds it again."""
    server = EmbeddedServer(tmp_path / ("deep" * 30) / "queue")
    server.start()
    address, pid = server.url, server.pid
    try:
        with redis.Redis.from_url(address) as client:
            client.set("job", "kept")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not server.alive(), "it has died")
            server.spawn()
            server.wait_until_ready()
            assert (server.url, server.pid != pid) == (address, True)
            assert client.get("job") == b"kept"
    finally:
        server.stop()
    assert not Path(address.removeprefix("unix://")).exists()
