"""Backblaze under test, on its maker's own simulator behind HTTP."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import SecretStr

from dataguardian.domain.sizes import MIB
from dataguardian.storage.backblaze import BackblazeConfig
from dataguardian.storage.base import Storage, StorageConfig
from dataguardian.storage.registry import build_storage
from tests.servers import free_port
from tests.storage.conformance import Harness
from tests.storage.peers import Peers, shared
from tests.storage.processes import listening

PREFIX = "pre fix/é+%41"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class B2Server:
    port: int
    owner: tuple[str, str]
    guest: tuple[str, str]

    def bucket(self, kind: str = "") -> str:
        name = f"bucket-{kind}{os.getpid()}-{next(_numbers)}"
        self.order("/_bucket", {"name": name})
        return name

    def order(self, path: str, document: dict[str, object]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, json.dumps(document))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        connection.close()

    def config(self, bucket: str, key: tuple[str, str] | None = None, **more: object) -> BackblazeConfig:
        key_id, secret = key or self.owner
        fields = {
            "bucket_name": bucket,
            "application_key_id": key_id,
            "application_key": SecretStr(secret),
            "endpoint": f"http://127.0.0.1:{self.port}",
            "prefix": PREFIX,
        }
        return BackblazeConfig.model_validate(fields | more)


@contextmanager
def b2() -> Iterator[B2Server]:
    port = free_port()
    with listening([sys.executable, "-m", "tests.storage.b2_peer", str(port)], port) as process:
        assert process.stdout is not None
        keys = json.loads(process.stdout.readline())
        yield B2Server(port, tuple(keys["owner"]), tuple(keys["guest"]))


class BackblazeHarness(Harness):
    kill_bytes: ClassVar[int] = 16 * MIB
    kills: ClassVar[int] = 4
    rounds: ClassVar[int] = 10
    refused_names = {  # noqa: RUF012 -- declared in the base
        "a" * 255: "a name between slashes has at most 250 bytes",
        "é" * 127 + "x": "a name between slashes has at most 250 bytes",
    }

    def __init__(self, server: B2Server) -> None:
        self.server = server
        self.bucket = server.bucket()
        self.address = ("127.0.0.1", server.port)

    @property
    def config(self) -> StorageConfig:
        return self.server.config(self.bucket)

    def at(self, host: str, port: int, *, timeout_seconds: float) -> StorageConfig:
        return self.server.config(self.bucket, endpoint=f"http://{host}:{port}", timeout_seconds=timeout_seconds)

    def missing(self) -> Storage:
        return build_storage(self.server.config("no-such-bucket"))

    def wrong_credentials(self) -> Iterable[Storage]:
        key_id, secret = self.server.owner
        for key in ((key_id, "not the key"), ("nobody", secret)):
            yield build_storage(self.server.config(self.bucket, key))

    @contextmanager
    def denied(self) -> Iterator[Storage]:
        self.open().put("there", b"x")
        yield build_storage(self.server.config(self.bucket, self.server.guest))

    @contextmanager
    def full(self) -> Iterator[Storage]:
        yield build_storage(self.server.config(self.server.bucket("full-")))

    def fill(self, paths: Iterable[str], data: bytes) -> None:
        names = [f"{PREFIX}/{path}" for path in paths]
        self.server.order("/_fill", {"bucket": self.bucket, "names": names, "text": data.decode()})


@contextmanager
def on_simulator(_folder: Path) -> Iterator[Harness]:
    yield BackblazeHarness(shared(b2))


PEERS: Peers = {"simulator": on_simulator}
