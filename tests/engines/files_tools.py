"""Trees with everything that a file system can hold, and an independent way to compare two of them."""

# ruff: noqa: PTH101, PTH102, PTH115, PTH118, PTH123, PTH211 -- names that are not UTF-8 are bytes, which pathlib does not take

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataguardian.engines.base import DumpOptions, RestoreOptions
from dataguardian.engines.files import FilesConfig, FilesEngine

ROOT = os.geteuid() == 0
ALL = DumpOptions()


@dataclass
class Stored:
    """A dump kept in memory, and given back in pieces that cut through headers."""

    data: bytes
    name: str = "tree"
    kind: str = "tar"
    piece_bytes: int = 100_003
    metadata: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None
    """Raised after half of the bytes."""

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def chunks(self) -> Iterator[bytes]:
        for at in range(0, len(self.data), self.piece_bytes):
            if self.error is not None and at > len(self.data) // 2:
                raise self.error
            yield self.data[at : at + self.piece_bytes]


def engine(path: Path | str, **config: Any) -> FilesEngine:
    return FilesEngine(FilesConfig(source_path=str(path), **config))


def read_all(stream: Any, count: int | None = None) -> bytes:
    buffer = memoryview(bytearray(1 << 20))
    data = bytearray()
    while (count is None or len(data) < count) and (step := stream.readinto(buffer)):
        data += buffer[:step]
    return bytes(data)


def dump(source: Path | str, options: DumpOptions = ALL) -> tuple[bytes, list[str]]:
    """Returns the archive and the warnings."""
    (stream,) = engine(source).dump(options)
    with stream:
        data = read_all(stream)
        stream.finish()
        return data, stream.warnings


def restore(
    stored: Stored | bytes, target: Path | str, *, drop_existing: bool = False, privileges: str = "all"
) -> list[str]:
    """Restores all that there is, unless told otherwise; returns warnings."""
    stored = Stored(stored) if isinstance(stored, bytes) else stored
    options = RestoreOptions(drop_existing=drop_existing)
    into = engine(target, restore_privileges=privileges)
    into.prepare_restore([(stored.name, stored.kind)], options)
    into.restore(iter([stored]), options)
    return into.warnings


def children() -> set[str]:
    """Ids of the processes that this one has started and not yet reaped."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Returns a POSIX ACL as the kernel stores it, of (tag, permissions, id): linux/posix_acl_xattr.h."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
ACCESS_ACL = acl((1, 6, NOBODY), (2, 7, 12345), (4, 4, NOBODY), (8, 4, 54321), (16, 7, NOBODY), (32, 4, NOBODY))
DEFAULT_ACL = acl((1, 7, NOBODY), (2, 5, 12345), (4, 5, NOBODY), (16, 5, NOBODY), (32, 0, NOBODY))


def build_tree(root: bytes) -> None:
    """Makes everything that this user may make below `root`, which must not exist."""
    os.mkdir(root)
    _names(root)
    _links(root)
    _attributes(root)
    _special(root)
    if ROOT:
        _privileged(root)
    os.chmod(root, 0o2750)
    os.utime(root, ns=(0, 1_234_567_890_123_456_789))


def write(path: bytes, content: bytes = b"content\n", mtime_ns: int = 1_111_111_111_111_111_111) -> None:
    with open(path, "wb") as file:
        file.write(content)
    os.utime(path, ns=(0, mtime_ns))


def _names(root: bytes) -> None:
    names = [
        b"plain",
        b"new\nline",
        b"-rf",
        b"--help",
        b"back\\slash",
        b"b\\nackslash-n",
        b"\xff\xfe\x80 latin",
        b" space ",
    ]
    names += [b"\xc3\xa9", b"'\"$(x)`", b"*?[a]", b"tab\t", b"#hash", b"!bang", b"...", b"n" * 255, b"u" * 101]
    for name in names:
        write(os.path.join(root, name), name)
    deep = root
    for letter in (b"d" * 120, b"e" * 120, b"f" * 120, b"\xfd" * 120):
        deep = os.path.join(deep, letter)
        os.mkdir(deep)
    write(os.path.join(deep, b"g" * 200), b"deep")
    write(os.path.join(root, b"before-1970"), mtime_ns=-5_000_000_001)
    write(os.path.join(root, b"after-2038"), mtime_ns=5_000_000_000_000_000_001)
    write(os.path.join(root, b"empty"), b"")
    write(os.path.join(root, b"block"), b"b" * 512)
    os.mkdir(os.path.join(root, b"empty-folder"))
    os.mkdir(os.path.join(root, b"new\nfolder"))
    write(os.path.join(root, b"new\nfolder", b"in\nit"))


def _links(root: bytes) -> None:
    os.symlink(b"plain", os.path.join(root, b"link"))
    os.symlink(b"/etc/passwd", os.path.join(root, b"link-outside"))
    os.symlink(b"../../..", os.path.join(root, b"link-up"))
    os.symlink(b"no-such-\xff" + b"x" * 150, os.path.join(root, b"link-dangling"))
    os.utime(os.path.join(root, b"link"), ns=(0, 1_222_222_222_000_000_007), follow_symlinks=False)
    os.link(os.path.join(root, b"plain"), os.path.join(root, b"empty-folder", b"..", b"hard-1"))
    os.mkdir(os.path.join(root, b"links"))
    os.link(os.path.join(root, b"plain"), os.path.join(root, b"links", b"hard-2"))
    os.link(os.path.join(root, b"link-outside"), os.path.join(root, b"links", b"hard-symlink"), follow_symlinks=False)


def _attributes(root: bytes) -> None:
    path = os.path.join(root, b"attributes")
    write(path)
    os.chmod(path, 0o4755)
    os.setxattr(path, "user.plain", b"value")
    os.setxattr(path, "user.binary=%\n", b"\0=\n\xff" * 50)
    folder = os.path.join(root, b"with-acl")
    os.mkdir(folder)
    os.setxattr(folder, "system.posix_acl_default", DEFAULT_ACL)
    write(os.path.join(folder, b"inherits"))
    os.setxattr(path, "system.posix_acl_access", ACCESS_ACL)
    secret = os.path.join(root, b"read-only")
    os.mkdir(secret)
    write(os.path.join(secret, b"file"))
    os.chmod(os.path.join(secret, b"file"), 0o400)
    os.chmod(secret, 0o555)


def _special(root: bytes) -> None:
    os.mkfifo(os.path.join(root, b"fifo"), 0o620)
    with open(os.path.join(root, b"sparse"), "wb") as file:
        file.write(b"begin")
        file.seek(64 << 20)
        file.write(b"middle")
        file.truncate(128 << 20)
    with open(os.path.join(root, b"all-hole"), "wb") as file:
        file.truncate(8 << 20)


def _privileged(root: bytes) -> None:
    os.mknod(os.path.join(root, b"device"), 0o640 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(os.path.join(root, b"block-device"), 0o600 | stat.S_IFBLK, os.makedev(7, 200))
    for name, owner in ((b"owned", 12345), (b"far-owned", 3_000_000_000)):
        write(os.path.join(root, name))
        os.chown(os.path.join(root, name), owner, owner + 1)
    path = os.path.join(root, b"capable")
    write(path)
    os.setxattr(path, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0))
    os.setxattr(path, "trusted.mark", b"\x01")


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may only be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def snapshot(root: Path | bytes) -> dict[bytes, dict[str, Any]]:
    """Returns everything that can be known of a tree, by relative path; hard links as the set of their names."""
    root = os.fsencode(root)
    found: dict[bytes, dict[str, Any]] = {b".": _facts(root)}
    groups: dict[tuple[int, int], set[bytes]] = defaultdict(set)
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            found[relative] = _facts(path)
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode):
                groups[status.st_dev, status.st_ino].add(relative)
    for group in groups.values():
        for relative in group:
            found[relative]["same_file"] = sorted(group)
    return found


def _facts(path: bytes) -> dict[str, Any]:
    status = os.lstat(path)
    facts: dict[str, Any] = {"mode": oct(status.st_mode), "owner": (status.st_uid, status.st_gid)}
    facts |= {"mtime_ns": status.st_mtime_ns, "xattrs": _xattrs(path)}
    if stat.S_ISLNK(status.st_mode):
        facts["target"] = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            facts["content"] = hashlib.file_digest(file, "sha256").hexdigest()
        facts["sparse"] = status.st_blocks * 512 < status.st_size // 2
    elif not stat.S_ISDIR(status.st_mode):
        facts["device"] = status.st_rdev
    return facts


def _xattrs(path: bytes) -> dict[str, bytes]:
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        with contextlib.suppress(OSError):
            found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found
