"""The SFTP storage beyond the contract: what a real OpenSSH server can do to it, and what it leaves there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import asyncssh
import pytest

from dataguardian.domain.errors import (
    CancelledError,
    DataGuardianError,
    ObjectMissingError,
    StorageConnectionError,
    StorageDeniedError,
    StorageTransientError,
    UsageError,
)
from dataguardian.domain.sizes import MIB
from dataguardian.domain.urls import parse_url
from dataguardian.storage.base import Storage
from dataguardian.storage.registry import STORAGES, build_storage, storage_config
from dataguardian.storage.retrying import wrap
from dataguardian.storage.ssh import SshConfig, link, remote
from dataguardian.storage.ssh.remote import STALE_SECONDS
from dataguardian.storage.temporary import TEMPORARY_PREFIX, temporary_name
from tests.ssh.sshd import SshServer, remove, ssh_server
from tests.storage.conformance import in_parallel, listed, pattern
from tests.storage.fixture_ssh import SshHarness
from tests.storage.peers import shared
from tests.storage.proxy import TcpProxy, Wire


@pytest.fixture
def harness() -> Iterator[SshHarness]:
    yield from harness_on(shared(ssh_server))


@pytest.fixture
def own_harness() -> Iterator[SshHarness]:
    """One on a server that the test may stop and start."""
    with ssh_server() as server:
        yield from harness_on(server)


def harness_on(server: SshServer) -> Iterator[SshHarness]:
    folder = server.shared_folder()
    try:
        yield SshHarness(server, folder)
    finally:
        remove(folder)


def test_keys_are_renewed_while_much_is_sent() -> None:
    """A server that wants new keys after each mebibyte gets them, in the middle of what goes to and fro."""
    content = pattern("renewed", 6 * MIB)
    with ssh_server(settings="RekeyLimit 1M") as server:
        for harness in harness_on(server):
            storage = harness.open()

            def to_and_fro(name: str, storage: Storage = storage) -> None:
                storage.put(name, content)
                assert storage.get(name, len(content)) == content

            in_parallel(*(partial(to_and_fro, name) for name in "abc"))


CALLS: dict[str, Callable[[Storage, str], object]] = {
    "put": lambda storage, path: storage.put(path, b"x"),
    "get": lambda storage, path: storage.get(path, 10),
    "stat": lambda storage, path: storage.stat(path),
    "delete": lambda storage, path: storage.delete(path),
    "list": lambda storage, path: list(storage.list(path)),
    "folders": lambda storage, path: list(storage.folders(path)),
}


@pytest.mark.parametrize("call", CALLS)
def test_links_on_the_server_lead_nowhere(harness: SshHarness, call: str) -> None:
    """A link that somebody planted below the root is refused, wherever it points, and what it points at stays."""
    outside = harness.folder / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"theirs")
    harness.server.own(outside)
    (harness.root / "link").symlink_to(outside)
    paths = ["link/x", "link/y"] if call not in ("list", "folders") else ["link", "link/sub"]
    for path in paths:
        with pytest.raises(StorageDeniedError, match="symbolic link"):
            CALLS[call](harness.open(), path)
    assert [path.name for path in outside.iterdir()] == ["x"]
    assert listed(harness.open()) == {}


def test_a_link_is_no_object(harness: SshHarness) -> None:
    """Neither read nor listed; a put over it replaces the link and not what it points at."""
    secret = harness.folder / "secret"
    secret.write_bytes(b"secret")
    (harness.root / "x").symlink_to(secret)
    storage = harness.open()
    for call in (lambda: storage.get("x", 10), lambda: storage.stat("x"), lambda: storage.delete("x")):
        with pytest.raises(StorageDeniedError, match="symbolic link"):
            call()
    assert listed(storage) == {}
    storage.put("x", b"ours")
    assert (secret.read_bytes(), storage.get("x", 4)) == (b"secret", b"ours")


def test_pipes_and_folders_in_the_way(harness: SshHarness) -> None:
    """What is no file is no object, is never opened, and is not overwritten by accident."""
    os.mkfifo(harness.root / "pipe")
    harness.server.own(harness.root / "pipe")
    storage = harness.open()
    with pytest.raises(ObjectMissingError):
        storage.get("pipe", 10)
    assert listed(storage) == {}
    storage.put("a/b", b"x")
    with pytest.raises(StorageDeniedError, match="folder where the object belongs"):
        storage.put("a", b"x")
    with pytest.raises(StorageDeniedError, match="file where a folder belongs"):
        storage.put("a/b/c", b"x")
    assert listed(storage) == {"a/b": 1}


def test_temporaries_are_hidden_and_swept(harness: SshHarness) -> None:
    """What a killed put left is never shown, and removed when it is a day old; what looks alike is kept."""
    old, young = (f"{TEMPORARY_PREFIX}{character * 32}" for character in "ab")
    other = f"{TEMPORARY_PREFIX}mine"
    for name in (old, young, other):
        (harness.root / name).write_bytes(b"x")
        harness.server.own(harness.root / name)
        if name != young:
            os.utime(harness.root / name, (0, time.time() - STALE_SECONDS - 60))
    storage = harness.open()
    assert listed(storage) == {other: 1}
    storage.put("x", b"x")
    assert sorted(path.name for path in harness.root.iterdir()) == sorted([young, other, "x"])
    with pytest.raises(UsageError, match="temporary"):
        storage.put(young, b"x")


def test_what_killed_puts_of_one_backup_left_is_discarded_at_once(harness: SshHarness) -> None:
    """Whoever removes a failed attempt need not wait for a day, and harms no put of another backup."""
    left, other = temporary_name("job/run/01-a/000001.zst"), temporary_name("job/other/x")
    for name in (left, other):
        (harness.root / name).write_bytes(b"half")
        harness.server.own(harness.root / name)
    wrap(harness.open()).discard("job/run")
    assert [path.name for path in harness.root.iterdir()] == [other]


def test_a_name_that_is_too_long_is_wrong_usage(harness: SshHarness) -> None:
    """It would fail on every try, and SFTP has no word for why."""
    with pytest.raises(UsageError, match="255 bytes"):
        harness.open().put("é" * 128, b"x")


def test_names_that_are_not_utf8_are_kept(harness: SshHarness) -> None:
    """File names are bytes; those of others are listed, read and deleted like ours."""
    (harness.root / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    storage = harness.open()
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert listed(storage) == {name: 1}
    assert storage.get(name, 1) == b"x"
    storage.delete(name)
    assert listed(storage) == {}


def test_a_put_is_synced(harness: SshHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it gets its name, then the folder, and once each new folder's parent."""
    synced: list[str] = []
    real_open = asyncssh.SFTPClient.open
    real_sync = asyncssh.SFTPClientFile.fsync
    names: dict[int, str] = {}

    async def open_(self: asyncssh.SFTPClient, path: str, *args: Any, **options: Any) -> asyncssh.SFTPClientFile:
        file = await real_open(self, path, *args, **options)
        names[id(file)] = path
        return file

    async def fsync(self: asyncssh.SFTPClientFile) -> None:
        synced.append(os.path.relpath(names[id(self)], harness.root))
        await real_sync(self)

    monkeypatch.setattr(asyncssh.SFTPClient, "open", open_)
    monkeypatch.setattr(asyncssh.SFTPClientFile, "fsync", fsync)
    storage = harness.open()
    storage.put("a/b/1", b"x")
    assert synced[0].startswith(TEMPORARY_PREFIX)
    assert synced[1:] == ["a/b", ".", "a"]
    storage.put("a/b/2", b"x")
    assert synced[5:] == ["a/b"]


@pytest.mark.parametrize("extension", ["posix-rename@openssh.com", "fsync@openssh.com", "statvfs@openssh.com"])
def test_a_poorer_server_is_used_or_refused(
    harness: SshHarness, monkeypatch: pytest.MonkeyPatch, extension: str
) -> None:
    """Without an atomic rename nothing is stored, and the error says why; without the others we do with less."""

    async def unsupported(*_: object) -> None:
        raise asyncssh.SFTPOpUnsupported(f"{extension} not supported")

    kind = asyncssh.SFTPClientFile if extension.startswith("fsync") else asyncssh.SFTPClient
    monkeypatch.setattr(kind, extension.split("@", maxsplit=1)[0].replace("-", "_"), unsupported)
    storage = harness.open()
    if extension.startswith("posix-rename"):
        with pytest.raises(StorageDeniedError, match="posix-rename"):
            storage.put("a/b", b"x")
        assert list(harness.root.iterdir()) == []
        return
    storage.put("a/b", b"x")
    assert storage.get("a/b", 1) == b"x"
    assert (storage.free_space() is None) == extension.startswith("statvfs")


def test_a_server_that_allows_one_session_is_shared() -> None:
    """MaxSessions 1 makes threads take turns on one session instead of failing."""
    with ssh_server(settings="MaxSessions 1") as server:
        for harness in harness_on(server):
            put = harness.open().put
            in_parallel(*(partial(put, name, pattern(name, MIB)) for name in "abcdef"))
            assert listed(harness.open()) == dict.fromkeys("abcdef", MIB)


def test_an_account_without_sftp_is_told_so() -> None:
    """A login that runs another command is the administrator's to change."""
    with ssh_server(settings="ForceCommand /bin/echo hello") as server:
        for harness in harness_on(server):
            with pytest.raises(StorageDeniedError, match="no SFTP") as caught:
                harness.open().check()
            assert "Subsystem sftp" in caught.value.hint


def test_a_restarted_server_is_found_again(own_harness: SshHarness) -> None:
    """A killed sshd costs a try and no more; while it is away the error may be tried again."""
    raw = own_harness.open()
    storage = wrap(raw, sleep=lambda seconds: time.sleep(min(seconds, 0.2)))
    storage.put("a/1", b"x")
    own_harness.server.stop()
    with pytest.raises(StorageConnectionError) as caught:
        raw.get("a/1", 1)
    assert isinstance(caught.value, StorageTransientError)
    own_harness.server.start()
    assert storage.get("a/1", 1) == b"x"
    own_harness.server.stop()
    own_harness.server.start()
    storage.put("a/2", b"y")
    assert listed(storage) == {"a/1": 1, "a/2": 1}


def test_what_a_lost_connection_left_is_removed_by_the_next_put(harness: SshHarness) -> None:
    """A part that is sent three times leaves one object and no temporary."""
    resets = [Wire(way="up", what="reset", after_bytes=MIB), Wire(way="up", what="reset", after_bytes=3 * MIB)]
    with TcpProxy(("127.0.0.1", harness.server.port), *resets) as proxy:
        storage = wrap(build_storage(harness.at("127.0.0.1", proxy.port, timeout_seconds=5)), sleep=lambda _: None)
        data = pattern("part", 4 * MIB)
        storage.put("a/part", data)
        proxy.assert_all_fired()
        assert storage.get("a/part", len(data)) == data
    assert [path.name for path in harness.root.iterdir()] == ["a"]


def test_a_resting_storage_lets_its_connection_go(harness: SshHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that probes now and then keeps no connection in between."""
    monkeypatch.setattr(link, "IDLE_SECONDS", 0.05)
    storage = harness.open()
    with TcpProxy(("127.0.0.1", harness.server.port)) as proxy:
        storage = build_storage(harness.at("127.0.0.1", proxy.port, timeout_seconds=5))
        storage.put("a", b"x")
        time.sleep(0.5)
        assert storage.get("a", 1) == b"x"
        assert proxy.connections == 2


def test_a_failing_put_tells_a_full_disk_from_a_failing_one(
    harness: SshHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SFTP 3 says "failure" for both: with room left it may work next time."""

    async def fail(*_: object) -> None:
        raise asyncssh.SFTPFailure("Failure")

    monkeypatch.setattr(asyncssh.SFTPClientFile, "write", fail)
    with pytest.raises(StorageTransientError, match="the server failed") as caught:
        harness.open().put("a/b", b"x")
    assert caught.value.hint
    assert list(harness.root.iterdir()) == []


def test_the_address_says_it_all(harness: SshHarness) -> None:
    """What `describe` gives opens the same storage again, and has no secret in it."""
    server = harness.server
    query = {"private_key": str(server.key), "host_key": server.fingerprint(), "passphrase": "geheim"}
    user = f"{server.user}:ge%2Fheim"
    address = f"sftp://{user}@127.0.0.1:{server.port}{quote(str(harness.root))}?{urlencode(query, quote_via=quote)}"
    config = storage_config(parse_url(address))
    shown = config.describe()
    assert "geheim" not in shown + repr(config)
    assert "ge/heim" not in shown + repr(config)
    again = storage_config(parse_url(shown))
    build_storage(again).put("a", b"x")
    assert listed(build_storage(config)) == {"a": 1}
    assert again.describe() == shown


@pytest.mark.parametrize(
    ("path", "folder", "shown"),
    [
        ("/srv/x", "/srv/x", "/srv/x"),
        ("/", "/", "/"),
        ("/~/x/y", "x/y", "/~/x/y"),
        ("/~", ".", "/~"),
        ("/~x", "/~x", "/~x"),
        ("/srv/x/", "/srv/x", "/srv/x"),
    ],
)
def test_folders_below_the_home_begin_with_a_tilde(path: str, folder: str, shown: str) -> None:
    """`/~/x` is x below the user's home, wherever that is; everything else is absolute."""
    config = storage_config(parse_url(f"sftp://u@h{path}"))
    assert isinstance(config, SshConfig)
    assert config.folder == folder
    assert config.describe() == f"sftp://u@h{shown}"


def test_a_relative_folder_is_below_the_home() -> None:
    """The form's `remote_path` may leave the tilde out."""
    config = STORAGES.config({"type": "ssh", "host": "h", "remote_path": "backups"})
    assert isinstance(config, SshConfig)
    assert (config.folder, config.describe()) == ("backups", "sftp://h/~/backups")


@pytest.mark.parametrize(
    "address",
    ["sftp://", "sftp:///x", "sftp://h", "sftp://u@h/x?nope=1", "sftp://-o@-h/x", "sftp://h/x/../y", "sftp://h:0/x"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """Before anything is opened."""
    with pytest.raises(UsageError):
        storage_config(parse_url(address))


def test_vendor_errors_do_not_leak(harness: SshHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every error that SFTP knows becomes one of ours."""
    storage = harness.open()
    storage.put("a/b", b"x")
    kinds = [
        kind for kind in vars(asyncssh).values() if isinstance(kind, type) and issubclass(kind, asyncssh.SFTPError)
    ]
    assert len(kinds) > 20
    for kind in kinds:
        error = kind(4, "no") if kind is asyncssh.SFTPError else kind("no")

        async def fail(*_: object, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(remote.Remote, "stat", fail)
            with pytest.raises(DataGuardianError) as caught:
                storage.stat("a/b")
            assert caught.value.hint or isinstance(caught.value, ObjectMissingError)


def test_a_stopped_put_stops_at_once(harness: SshHarness) -> None:
    """A signal does not wait for a stalled server, the temporary goes, and the next call works."""

    stopped = []

    def stop(*_: object) -> None:
        if not stall.fired:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            return
        stopped.append(time.monotonic())
        raise CancelledError(signum=signal.SIGALRM)

    stall = Wire(way="up", what="stall", after_bytes=MIB, seconds=60)
    with TcpProxy(("127.0.0.1", harness.server.port)) as proxy:
        storage = build_storage(harness.at("127.0.0.1", proxy.port, timeout_seconds=90))
        storage.put("a", b"x")
        proxy.script(stall)
        before = signal.signal(signal.SIGALRM, stop)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(CancelledError):
                storage.put("b", pattern("b", 8 * MIB))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - stopped[0] < 20
        proxy.assert_all_fired()
        assert storage.get("a", 1) == b"x"
        storage.put("c", b"x")
    assert sorted(path.name for path in harness.root.iterdir()) == ["a", "c"]
