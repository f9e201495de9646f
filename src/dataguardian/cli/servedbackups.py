"""Objects of a backup, read through the service by whoever has the key and not the storage's credentials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from dataguardian.cli.client import Client, Document
from dataguardian.domain.errors import IntegrityError, UsageError
from dataguardian.storage.base import Data, Storage, StoredObject


class ServedBackups(Storage):
    """Reads objects of one encrypted backup from the service; what proves a key needs nothing else of a storage."""

    def __init__(self, client: Client, row: Document) -> None:
        self._client = client
        self._row = row

    def get(self, path: str, max_bytes: int) -> bytes:
        name = path.removeprefix(f"{self._row['directory']}/")
        data = bytearray()
        with self._client.stream(f"/api/executions/{self._row['execution_id']}/object", name=name) as answer:
            for piece in answer.iter_bytes():
                data += piece
                if len(data) > max_bytes:
                    raise IntegrityError(f"{path} is longer than it should be", path=path)
        return bytes(data)

    def put(self, path: str, data: Data) -> NoReturn:  # noqa: ARG002 -- a storage's names
        _reads_only()

    def stat(self, path: str) -> StoredObject:  # noqa: ARG002 -- as above
        _reads_only()

    def list(self, prefix: str = "") -> Iterator[StoredObject]:  # noqa: ARG002 -- as above
        _reads_only()

    def folders(self, prefix: str = "") -> Iterator[str]:  # noqa: ARG002 -- as above
        _reads_only()

    def delete(self, path: str) -> None:  # noqa: ARG002 -- as above
        _reads_only()

    def free_space(self) -> int | None:
        return None


def _reads_only() -> NoReturn:
    raise UsageError("only objects of a backup are read through the service")
