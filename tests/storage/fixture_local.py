"""A folder of this machine as a storage under test."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dataguardian.storage.base import Storage
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.storage.temporary import TEMPORARY_PREFIX
from tests.conftest import missing
from tests.storage.conformance import Harness
from tests.storage.peers import Peers


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mounts a tmpfs of 4 MiB."""
    folder.mkdir()
    if os.geteuid() != 0:
        missing("root, to mount a small tmpfs")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False).returncode:
        missing("the right to mount a small tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Makes file modes count for root as well, by taking two capabilities from this thread for a while."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    held = ctypes.create_string_buffer(24)
    assert libc.capget(header, held) == 0
    effective, *rest = struct.unpack("=6I", held.raw)
    dac_override_and_read_search = 0b110
    assert libc.capset(header, struct.pack("=6I", effective & ~dac_override_and_read_search, *rest)) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held.raw) == 0


class LocalHarness(Harness):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "storage root"
        self.root.mkdir()

    @property
    def config(self) -> LocalConfig:
        return LocalConfig(path=str(self.root))

    def missing(self) -> Storage:
        return LocalStorage(LocalConfig(path=str(self.folder / "not there")))

    @contextmanager
    def denied(self) -> Iterator[Storage]:
        (self.root / "there").write_bytes(b"x")
        self.root.chmod(0)
        try:
            with bound_by_permissions():
                yield self.open()
        finally:
            self.root.chmod(0o700)

    @contextmanager
    def full(self) -> Iterator[Storage]:
        with small_disk(self.folder / "small disk") as folder:
            yield LocalStorage(LocalConfig(path=str(folder)))
            assert not [entry for entry in folder.iterdir() if entry.name.startswith(TEMPORARY_PREFIX)]

    def fill(self, paths: Iterable[str], data: bytes) -> None:
        for path in paths:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(data)


@contextmanager
def in_a_folder(folder: Path) -> Iterator[Harness]:
    yield LocalHarness(folder)


PEERS: Peers = {"folder": in_a_folder}
