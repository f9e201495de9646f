"""MinIO's configuration under test, on moto: the requests are those of S3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from pydantic import SecretStr

from dataguardian.storage.base import Storage, StorageConfig
from dataguardian.storage.minio import MinioConfig
from dataguardian.storage.registry import build_storage
from tests.storage.conformance import Harness
from tests.storage.fixture_s3 import PREFIX, S3Harness
from tests.storage.peers import Peers, shared
from tests.storage.s3_servers import Keys, moto_s3


class MinioHarness(S3Harness):
    many_objects: ClassVar[int] = 2_500

    @property
    def config(self) -> StorageConfig:
        return self.of(self.server.owner)

    def of(self, keys: Keys, *, port: int | None = None, bucket: str | None = None, seconds: float = 60) -> MinioConfig:
        return MinioConfig(
            endpoint=f"127.0.0.1:{port or self.server.port}",
            bucket=bucket or self.bucket,
            prefix=PREFIX,
            access_key=keys.access_key,
            secret_key=SecretStr(keys.secret_key),
            use_ssl=False,
            timeout_seconds=seconds,
        )

    def at(self, host: str, port: int, *, timeout_seconds: float) -> StorageConfig:
        return self.of(self.server.owner, port=port, seconds=timeout_seconds)

    def missing(self) -> Storage:
        return build_storage(self.of(self.server.owner, bucket="no-such-bucket"))

    def wrong_credentials(self) -> Iterable[Storage]:
        return [build_storage(self.of(keys)) for keys in self.server.strangers()]

    @contextmanager
    def denied(self) -> Iterator[Storage]:
        self.open().put("there", b"x")
        yield build_storage(self.of(self.server.guest()))


@contextmanager
def on_moto(_folder: Path) -> Iterator[Harness]:
    yield MinioHarness(shared(moto_s3))


PEERS: Peers = {"moto": on_moto}
