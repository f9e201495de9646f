"""A local folder as a storage: what only a file system can do wrong. (The contract is in `test_conformance.py`.)"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dataguardian.domain.errors import (
    IntegrityError,
    ObjectMissingError,
    StorageDeniedError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
    UsageError,
)
from dataguardian.domain.sizes import MIB
from dataguardian.domain.urls import Url, parse_url
from dataguardian.storage import direct
from dataguardian.storage.base import PROBE_PREFIX, Storage
from dataguardian.storage.local import STALE_SECONDS, LocalConfig, LocalStorage
from dataguardian.storage.registry import build_storage, storage_config
from dataguardian.storage.retrying import wrap
from dataguardian.storage.temporary import TEMPORARY_PREFIX, temporary_name
from tests.conftest import require_tool
from tests.storage.conformance import FULL_BYTES, in_parallel, listed
from tests.storage.fixture_local import bound_by_permissions, small_disk

STALE = TEMPORARY_PREFIX + "0123456789abcdef" * 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def storage(root: Path) -> Storage:
    return LocalStorage(LocalConfig(path=str(root)))


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int, *, times: int = 1) -> Iterator[None]:
    """Makes a system call fail so many times, and fails itself when that did not happen."""
    real = getattr(os, name)
    left = [times]

    def call(*args: object, **named: object) -> object:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return real(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, call)
        yield
    assert left == [0], "the fault never fired"


def test_an_address_becomes_a_folder() -> None:
    """The address names any folder and a limit, and is shown again without the limit."""
    config = storage_config(parse_url("file:///srv/b%20%FF/?max_size_gb=1.5"))
    assert isinstance(config, LocalConfig)
    assert (config.path, config.max_size_gb) == ("/srv/b \udcff", 1.5)
    assert config.describe() == "file:///srv/b%20%FF"
    assert LocalConfig.from_url(Url("file", path="/")).describe() == "file:///"


@pytest.mark.parametrize(
    "text",
    ["file://host/x", "file://", "file:///x?max_size=1", "file:///x?path=/y", "file:///x?type=s3"]
    + [f"file:///x?max_size_gb={value}" for value in ("", "0", "-1", "big", "inf", "nan")],
)
def test_an_address_that_is_not_understood_is_refused(text: str) -> None:
    """Hosts, unknown options and limits that are no size are wrong usage."""
    with pytest.raises(UsageError):
        storage_config(parse_url(text))


def test_only_the_owner_can_read_backups(storage: Storage, root: Path) -> None:
    """Files are 0600 and folders 0700, whatever the umask allows."""
    before = os.umask(0)
    try:
        storage.put("a/b/c", b"x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((root / path).stat().st_mode) for path in ("a", "a/b", "a/b/c")]
    assert modes == [0o700, 0o700, 0o600]


def test_a_missing_root_is_never_made(tmp_path: Path) -> None:
    """A mount that is not there must not fill the disk beneath it; the hint says how to make a folder."""
    storage = LocalStorage(LocalConfig(path=str(tmp_path / "not there")))
    with pytest.raises(StorageUnreachableError) as caught:
        storage.put("a/b", b"x")
    assert f"mkdir -p '{tmp_path}/not there'" in caught.value.hint
    assert tree(tmp_path) == []


def test_a_root_that_changed_is_not_written_to(storage: Storage, root: Path) -> None:
    """A disk that is unmounted in the middle of a run leaves its empty mount point, which is not the storage."""
    storage.put("a/b", b"x")
    root.rename(root.with_name("was mounted"))
    root.mkdir()
    with pytest.raises(StorageUnreachableError, match="not the folder") as caught:
        storage.put("a/c", b"x")
    assert "mount" in caught.value.hint
    assert tree(root) == []


def test_a_file_in_the_roots_place_is_denied(tmp_path: Path) -> None:
    """A file is no storage, and is left alone."""
    (tmp_path / "file").write_text("precious")
    storage = LocalStorage(LocalConfig(path=str(tmp_path / "file")))
    for call in (lambda: storage.put("a", b"x"), lambda: list(storage.list()), storage.check):
        with pytest.raises(StorageDeniedError, match="not a folder") as caught:
            call()
        assert caught.value.exit_code == 5
    assert (tmp_path / "file").read_text() == "precious"


def test_a_read_only_root_can_be_read(storage: Storage, root: Path) -> None:
    """Writing is denied with a hint, reading and listing go on."""
    storage.put("a/b", b"x")
    root.chmod(0o500)
    (root / "a").chmod(0o500)
    try:
        with bound_by_permissions():
            assert storage.get("a/b", 1) == b"x"
            assert listed(storage) == {"a/b": 1}
            calls: list[Callable[[], object]] = [
                lambda: storage.put("c", b"x"),
                lambda: storage.delete("a/b"),
                storage.check,
            ]
            for call in calls:
                with pytest.raises(StorageDeniedError) as caught:
                    call()
                assert "chown" in caught.value.hint
    finally:
        root.chmod(0o700)


def test_a_read_only_mount_is_told_from_missing_rights(tmp_path: Path) -> None:
    """`chown` does not help where the file system itself went read-only."""
    with small_disk(tmp_path / "disk") as folder:
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        with pytest.raises(StorageDeniedError) as caught:
            LocalStorage(LocalConfig(path=str(folder))).put("a/b", b"x")
    assert "read-only" in caught.value.hint


def test_links_inside_the_root_are_not_followed(storage: Storage, root: Path, tmp_path: Path) -> None:
    """A planted link leads neither reads nor writes nor deletes out of the storage, and is not listed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    storage.put("real/x", b"x")
    (root / "folder").symlink_to(outside)
    (root / "real/object").symlink_to(outside / "secret")
    for path in ("folder/secret", "real/object"):
        for call in (lambda path=path: storage.get(path, 100), lambda path=path: storage.stat(path)):
            with pytest.raises(StorageDeniedError, match="link"):
                call()
        with pytest.raises(StorageDeniedError):
            storage.delete(path)
    with pytest.raises(StorageDeniedError, match="link"):
        storage.put("folder/new", b"x")
    with pytest.raises(StorageDeniedError, match="link"):
        list(storage.list("folder"))
    storage.put("real/object", b"replaces the link itself")
    assert listed(storage) == {"real/x": 1, "real/object": 24}
    assert list(storage.folders()) == ["real"]
    assert (tree(outside), (outside / "secret").read_text()) == (["secret"], "secret")


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    """The user chose the root, also when it is a link to another disk."""
    (tmp_path / "link").symlink_to(root)
    LocalStorage(LocalConfig(path=str(tmp_path / "link"))).put("a", b"x")
    assert tree(root) == ["a"]


def test_pipes_and_folders_are_no_objects(storage: Storage, root: Path) -> None:
    """A pipe that somebody left there neither hangs a read nor shows up."""
    os.mkfifo(root / "pipe")
    storage.put("a/b", b"x")
    with pytest.raises(ObjectMissingError):
        storage.get("pipe", 10)
    assert listed(storage) == {"a/b": 1}
    for path in ("a", "a/b/c", "pipe/x"):
        with pytest.raises(StorageDeniedError) as caught:
            storage.put(path, b"x")
        assert "move it away" in caught.value.hint
    assert tree(root) == ["a", "a/b", "pipe"]


def test_names_need_not_be_utf_8_nor_short(storage: Storage) -> None:
    """Any bytes are a name; one that the file system cannot hold is wrong usage; errors can always be printed."""
    storage.put("\udcff/line\nbreak", b"x")
    assert listed(storage) == {"\udcff/line\nbreak": 1}
    with pytest.raises(ObjectMissingError) as caught:
        storage.get("\udcff", 1)
    assert str(caught.value).isprintable()
    with pytest.raises(UsageError, match="too long"):
        storage.put("a" * 256, b"x")


@pytest.mark.parametrize("path", [STALE, f"a/{STALE}", TEMPORARY_PREFIX])
def test_temporary_names_are_no_paths(storage: Storage, path: str) -> None:
    """No object can be mistaken for a temporary file, nor the other way round."""
    for call in (lambda: storage.put(path, b"x"), lambda: storage.get(path, 1), lambda: storage.delete(path)):
        with pytest.raises(UsageError, match="temporary"):
            call()


def test_what_a_killed_put_left_is_swept_a_day_later(storage: Storage, root: Path) -> None:
    """Only our own temporaries, and only old ones, are removed by a later put; none is ever listed."""
    fresh = TEMPORARY_PREFIX + "f" * 32
    others = [TEMPORARY_PREFIX + "short", ".tmp-someone-elses"]
    now = (root.stat()).st_mtime
    for name in (STALE, fresh, *others):
        (root / name).write_bytes(b"half")
        age = 100 if name == fresh else STALE_SECONDS + 100
        os.utime(root / name, (now - age, now - age))
    assert listed(storage) == dict.fromkeys(others, 4)
    storage.put("a", b"x")
    assert tree(root) == sorted([fresh, *others, "a"])


def test_what_killed_puts_of_one_backup_left_is_discarded_at_once(storage: Storage, root: Path) -> None:
    """Whoever removes a failed attempt need not wait for a day, and harms no put of another backup."""
    names = [temporary_name(path) for path in ("job/run/01-a/000001.zst", "job/run/SHA256SUMS", "job/other/x", "job")]
    for name in names:
        (root / name).write_bytes(b"half")
    storage.put("job/run/x", b"x")
    wrap(storage, limit_mbps=100).discard("job/run")
    assert tree(root) == sorted([*names[2:], "job", "job/run", "job/run/x"])


@pytest.mark.parametrize(
    ("call", "number", "error"),
    [
        ("pwrite", errno.ENOSPC, StorageFullError),
        ("pwrite", errno.EDQUOT, StorageFullError),
        ("fsync", errno.ENOSPC, StorageFullError),
        ("fsync", errno.EIO, StorageTransientError),
        ("close", errno.EIO, StorageTransientError),
        ("rename", errno.EROFS, StorageDeniedError),
        ("rename", errno.EXDEV, StorageDeniedError),
        ("mkdir", errno.EACCES, StorageDeniedError),
        ("mkdir", errno.ENOSPC, StorageFullError),
        ("open", errno.EMFILE, StorageTransientError),
    ],
)
def test_a_failed_put_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, storage: Storage, root: Path, *, call: str, number: int, error: type[Exception]
) -> None:
    """Whatever step fails, the error has its class, and no temporary file and no empty folder stays."""
    storage.put("kept/x", b"x")
    with failing(monkeypatch, call, number), pytest.raises(error) as caught:
        storage.put("new/run/1", b"content")
    assert isinstance(caught.value.__cause__, OSError)
    assert tree(root) == ["kept", "kept/x"]
    storage.put("new/run/1", b"content")
    assert storage.get("new/run/1", 7) == b"content"


def test_short_writes_are_continued(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> None:
    """The system may take fewer bytes than it was given; none is lost."""
    real = os.pwrite
    counts: list[int] = []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        counts.append(real(fd, data[:1000], offset))
        return counts[-1]

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        storage.put("a", bytes(range(256)) * 10)
    assert counts == [1000, 1000, 560]
    assert storage.get("a", 2560) == bytes(range(256)) * 10


def test_short_reads_are_continued(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> None:
    """The same holds for reading, and the bound still does."""
    real = os.read
    storage.put("a", bytes(range(256)) * 10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", lambda fd, room: real(fd, min(room, 1000)))
        assert storage.get("a", 2560) == bytes(range(256)) * 10
        with pytest.raises(IntegrityError):
            storage.get("a", 2559)


def test_an_object_that_grows_while_it_is_read_is_found(
    monkeypatch: pytest.MonkeyPatch, storage: Storage, root: Path
) -> None:
    """The bound holds for what is read, not only for what the file's size was."""
    real = os.read
    storage.put("a", bytes(10))

    def read(fd: int, room: int) -> bytes:
        with (root / "a").open("ab") as file:
            file.write(bytes(100))
        return real(fd, room)

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", read)
        with pytest.raises(IntegrityError):
            storage.get("a", 10)


def test_everything_is_synced_before_put_returns(monkeypatch: pytest.MonkeyPatch, storage: Storage, root: Path) -> None:
    """The file before its name, then its folder and every new folder's parent; known folders only once."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.path.relpath(Path(f"/proc/self/fd/{fd}").readlink(), root))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.put("a/b/1", b"x")
    assert synced[0].startswith(TEMPORARY_PREFIX)
    assert synced[1:] == ["a/b", ".", "a"]
    storage.put("a/b/2", b"x")
    assert synced[5:] == ["a/b"]
    storage.delete("a/b/1")
    storage.delete("a/b/2")
    storage.put("a/b/3", b"x")
    assert synced[7:] == ["a/b", ".", "a"]


def test_a_file_system_that_cannot_sync_folders_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch, storage: Storage
) -> None:
    """Some network file systems refuse it with EINVAL; their server decides when a name is durable."""
    real = os.fsync
    refused: list[int] = []

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            refused.append(fd)
            raise OSError(errno.EINVAL, "Invalid argument")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.put("a/b", b"x")
    assert refused
    assert storage.get("a/b", 1) == b"x"


def test_a_file_size_limit_is_a_full_storage(storage: Storage, root: Path) -> None:
    """`ulimit -f` (EFBIG) is no reason to try again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(StorageFullError):
            storage.put("a/b", bytes(2 * MIB))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(root) == []


def limited(root: Path, size_bytes: int) -> Storage:
    return build_storage(LocalConfig(path=str(root), max_size_gb=size_bytes / 10**9))


def test_a_limit_is_kept(root: Path) -> None:
    """What is there counts, replacing counts the difference, deleting gives room back, and refusals cost nothing."""
    limited(root, 1000).put("old", bytes(300))
    storage = limited(root, 1000)
    assert storage.free_space() == 700
    storage.put("a/new", bytes(700))
    assert storage.free_space() == 0
    for path, size_bytes in (("b", 1), ("old", 301), ("a/new", 1000)):
        with pytest.raises(StorageFullError, match="max_size_gb") as caught:
            storage.put(path, bytes(size_bytes))
        assert "max_size_gb" in caught.value.hint
    storage.put("old", bytes(300))
    storage.put("old", b"")
    storage.put("empty", b"")
    storage.delete("a/new")
    storage.delete("a/new")
    assert storage.free_space() == 1000
    assert tree(root) == ["empty", "old"]


def test_a_failed_put_gives_its_room_back(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """An interrupted upload does not eat the limit."""
    storage = limited(root, 1000)
    for _ in range(3):
        with failing(monkeypatch, "fsync", errno.EIO), pytest.raises(StorageTransientError):
            storage.put("a", bytes(900))
    storage.put("a", bytes(900))


def test_a_limit_holds_for_threads(root: Path) -> None:
    """Puts at the same moment together do not exceed the limit."""
    storage = limited(root, 1000)
    stored: list[int] = []

    def put(number: int) -> None:
        for turn in range(10):
            try:
                storage.put(f"{number}-{turn}", bytes(90))
                stored.append(1)
            except StorageFullError:
                pass

    in_parallel(*(lambda number=number: put(number) for number in range(4)))
    assert len(stored) == len(listed(storage)) == 11


def test_a_disk_and_a_limit_bound_free_space_together(tmp_path: Path) -> None:
    """The smaller of the two is what may still be put."""
    with small_disk(tmp_path / "disk") as folder:
        free = limited(folder, 10**12).free_space()
        assert free is not None
        assert MIB < free < FULL_BYTES
        assert limited(folder, 1000).free_space() == 1000


def test_lost_and_found_is_not_ours(storage: Storage, root: Path) -> None:
    """The root of an ext4 disk holds a folder that only root may read; it stops no listing."""
    storage.put("a/lost+found/x", b"x")
    (root / "lost+found").mkdir(mode=0)
    with bound_by_permissions():
        assert listed(storage) == {"a/lost+found/x": 1}
        assert list(storage.folders()) == ["a"]


def test_a_left_probe_is_an_ordinary_object(storage: Storage) -> None:
    """What a killed `check` left is listed, so that it can be found and deleted, but is no folder of backups."""
    storage.put(f"{PROBE_PREFIX}/left", b"x")
    assert listed(storage) == {f"{PROBE_PREFIX}/left": 1}
    assert list(storage.folders()) == []
    storage.check()


def test_a_listing_survives_what_vanishes_meanwhile(storage: Storage) -> None:
    """Cleanup may delete while somebody lists; what is gone is simply not there."""
    for number in range(20):
        storage.put(f"{number}/x", b"x")
    entries = storage.list()
    first = next(entries).path
    for number in range(20):
        storage.delete(f"{number}/x")
    assert [entry.path for entry in entries] == []
    assert first.endswith("/x")


def test_no_descriptor_is_left_open(storage: Storage) -> None:
    """Thousands of parts must not use up the process's descriptors, also when calls fail or listings are left."""
    storage.put("a/b/c", b"x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        storage.put("a/b/c", b"x")
        storage.get("a/b/c", 1)
        next(storage.list())
        for call in (
            lambda: storage.get("a/x/c", 1),
            lambda: storage.put("a/b", b"x"),
            lambda: storage.get("a/b/c", 0),
        ):
            with pytest.raises((ObjectMissingError, StorageDeniedError, IntegrityError)):
                call()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def cached_bytes(path: Path) -> int:
    """Returns how much of a file the page cache holds, by the stock tool."""
    told = subprocess.run(
        [require_tool("fincore"), "--bytes", "--noheadings", "--output", "RES", path],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return int(told.stdout)


def gains(root: Path) -> bool:
    kind = subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", root],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return kind.stdout.strip() in ("ext4", "xfs")


def test_a_big_object_does_not_go_through_the_page_cache(storage: Storage, root: Path) -> None:
    """What a database keeps in memory stays there: of a part only its last block's beginning is cached."""
    if not gains(root):
        pytest.skip(f"{root} lies neither on ext4 nor on xfs")
    data = os.urandom(9 * MIB + 4096 + 1)
    storage.put("a/big", data)
    assert cached_bytes(root / "a/big") <= 4096
    assert storage.get("a/big", len(data)) == data


@pytest.mark.parametrize("size_bytes", [MIB - 1, MIB, MIB + 1, 4 * MIB, 4 * MIB + 4095, 8 * MIB + 4096])
def test_every_byte_arrives_whatever_the_size(storage: Storage, *, size_bytes: int) -> None:
    """Sizes at and around blocks and chunks, from buffers that begin anywhere."""
    data = os.urandom(size_bytes + 3)
    storage.put("a", memoryview(data)[3:])
    assert storage.get("a", size_bytes) == data[3:]


@pytest.mark.parametrize("call", ["fcntl", "pwrite"])
def test_a_file_system_without_direct_writes_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch, storage: Storage, call: str
) -> None:
    """Some refuse the flag, some the write itself: the part goes the usual way then."""
    module = {"fcntl": fcntl, "pwrite": os}[call]
    refused: list[int] = []
    real, data = getattr(module, call), os.urandom(3 * MIB)

    def refuse(fd: int, *given: Any) -> Any:
        if not refused and (call == "pwrite" or given[0] == fcntl.F_SETFL):
            refused.append(fd)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, *given)

    monkeypatch.setattr(direct, "_file_system", lambda _device: b"ext4")
    monkeypatch.setattr(module, call, refuse)
    storage.put("a", data)
    assert refused, "the fault never fired"
    assert storage.get("a", len(data)) == data
