"""Two services that speak S3, from other houses: `rclone serve s3` on a folder, and moto."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from dataguardian.storage.registry import build_storage
from dataguardian.storage.s3 import S3Config
from dataguardian.storage.s3.objects import S3Storage
from dataguardian.storage.s3.wire import Request
from tests.servers import free_port
from tests.storage.front import Asked, HttpFront, Nth, Reply
from tests.storage.processes import listening, program

FULL_AT_BYTES = 4 * 1024 * 1024
STORAGE_FULL = Reply(507, b"<Error><Code>XMinioStorageFull</Code><Message>no drive has room</Message></Error>")

DIR_CACHE_SECONDS = 2
"""How long rclone may take to see what was written into its folder; with 0 it keeps a core busy."""

_numbers = itertools.count(1)


class Keys(NamedTuple):
    access_key: str
    secret_key: str


@dataclass(frozen=True)
class S3Server(ABC):
    port: int
    owner: Keys

    @abstractmethod
    def strangers(self) -> Iterable[Keys]:
        """Returns keys that are wrong, each in its way."""

    @abstractmethod
    def guest(self) -> Keys:
        """Returns keys with which nothing is allowed."""

    @abstractmethod
    def fill(self, bucket: str, keys: Iterable[str], data: bytes) -> None: ...

    def config(self, bucket: str, keys: Keys | None = None, **more: object) -> S3Config:
        keys = keys or self.owner
        fields = {
            "bucket": bucket,
            "endpoint": f"http://127.0.0.1:{self.port}",
            "region": "us-east-1",
            "access_key_id": keys.access_key,
            "secret_access_key": SecretStr(keys.secret_key),
        }
        return S3Config.model_validate(fields | more)

    def bucket(self) -> str:
        """Creates a bucket that no other test has."""
        name = f"bucket-{os.getpid()}-{next(_numbers)}"
        storage = build_storage(self.config(name))
        assert isinstance(storage, S3Storage)
        storage._wire.request(Request(method="PUT"))
        return name


@dataclass(frozen=True)
class RcloneServer(S3Server):
    folder: Path

    def strangers(self) -> Iterable[Keys]:
        return Keys(self.owner.access_key, "not the secret"), Keys("nobody", self.owner.secret_key)

    def guest(self) -> Keys:
        return Keys("nobody", "knows")

    def fill(self, bucket: str, keys: Iterable[str], data: bytes) -> None:
        for key in keys:
            file = self.folder / bucket / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        time.sleep(DIR_CACHE_SECONDS + 0.5)


@dataclass(frozen=True)
class MotoServer(S3Server):
    nobody: Keys

    def strangers(self) -> Iterable[Keys]:
        return Keys(self.owner.access_key, "not the secret"), Keys("nobody", self.owner.secret_key)

    def guest(self) -> Keys:
        return self.nobody

    def fill(self, bucket: str, keys: Iterable[str], data: bytes) -> None:
        order = {"bucket": bucket, "keys": list(keys), "text": data.decode()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/_fill", json.dumps(order))
        assert connection.getresponse().status == 204
        connection.close()


@contextmanager
def rclone_s3(*options: str) -> Iterator[RcloneServer]:
    port, keys = free_port(), Keys("rclone-key", "rclone/secret+key")
    with tempfile.TemporaryDirectory(prefix="dg-s3-") as folder:
        argv = [
            program("rclone"),
            "serve",
            "s3",
            "--addr",
            f"127.0.0.1:{port}",
            "--dir-cache-time",
            f"{DIR_CACHE_SECONDS}s",
        ]
        argv += ["--config", "/dev/null", "--auth-key", f"{keys.access_key},{keys.secret_key}", *options, folder]
        with listening(argv, port):
            yield RcloneServer(port, keys, Path(folder))


@contextmanager
def moto_s3() -> Iterator[MotoServer]:
    port = free_port()
    with listening([sys.executable, "-m", "tests.storage.moto_peer", str(port)], port) as process:
        assert process.stdout is not None
        keys = json.loads(process.stdout.readline())
        yield MotoServer(port, Keys(*keys["owner"]), Keys(*keys["guest"]))


@contextmanager
def full_front(port: int) -> Iterator[int]:
    """Yields the port of the same service as one whose drives have room for FULL_AT_BYTES at once."""

    def too_large(asked: Asked) -> bool:
        return asked.method == "PUT" and asked.size_bytes > FULL_AT_BYTES

    with HttpFront(port, Nth(STORAGE_FULL, when=too_large, times=1000)) as front:
        yield front.port
