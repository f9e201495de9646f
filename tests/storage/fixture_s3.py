"""S3 under test: on `rclone serve s3` and on moto."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from dataguardian.domain.sizes import MIB
from dataguardian.storage.base import Storage, StorageConfig
from dataguardian.storage.registry import build_storage
from tests.storage.conformance import Harness
from tests.storage.peers import Peers, shared
from tests.storage.s3_servers import S3Server, full_front, moto_s3, rclone_s3

PREFIX = "pre fix/é+%41"


class S3Harness(Harness):
    kill_bytes: ClassVar[int] = 16 * MIB
    kills: ClassVar[int] = 4
    rounds: ClassVar[int] = 10

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.bucket = server.bucket()
        self.address = ("127.0.0.1", server.port)

    @property
    def config(self) -> StorageConfig:
        return self.server.config(self.bucket, prefix=PREFIX)

    def at(self, host: str, port: int, *, timeout_seconds: float) -> StorageConfig:
        endpoint = f"http://{host}:{port}"
        return self.server.config(self.bucket, prefix=PREFIX, endpoint=endpoint, timeout_seconds=timeout_seconds)

    def missing(self) -> Storage:
        return build_storage(self.server.config("no-such-bucket"))

    def wrong_credentials(self) -> Iterable[Storage]:
        return [build_storage(self.server.config(self.bucket, keys, prefix=PREFIX)) for keys in self.server.strangers()]

    @contextmanager
    def denied(self) -> Iterator[Storage]:
        self.open().put("there", b"x")
        yield build_storage(self.server.config(self.bucket, self.server.guest(), prefix=PREFIX))

    @contextmanager
    def full(self) -> Iterator[Storage]:
        with full_front(self.server.port) as port:
            yield build_storage(self.at("127.0.0.1", port, timeout_seconds=10))

    def fill(self, paths: Iterable[str], data: bytes) -> None:
        self.server.fill(self.bucket, (f"{PREFIX}/{path}" for path in paths), data)


class RcloneHarness(S3Harness):
    keeps_folders: ClassVar[bool] = False
    reads_whole: ClassVar[bool] = False
    many_objects: ClassVar[int] = 2_500


@contextmanager
def on_rclone(_folder: Path) -> Iterator[Harness]:
    yield RcloneHarness(shared(rclone_s3))


@contextmanager
def on_moto(_folder: Path) -> Iterator[Harness]:
    yield S3Harness(shared(moto_s3))


PEERS: Peers = {"rclone": on_rclone, "moto": on_moto}
