"""Moves one file's bytes to or from a storage in parts, as a backup does: `transfer.py put|get STORAGE FILE`.

No dump, no hashes and no compression: what is left is the storage, to be compared with a program that copies.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataguardian.bootstrap import open_storage
from dataguardian.storage.base import Storage
from dataguardian.streams.split import give_back_big_blocks

PART_BYTES = 16 << 20
LANES = 4


def put(storage: Storage, source: Path) -> None:
    def send(number: int) -> None:
        with source.open("rb", buffering=0) as file:
            file.seek(number * PART_BYTES)
            storage.put(_name(number), file.read(PART_BYTES))

    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(send, range(_parts(source))))


def get(storage: Storage, source: Path) -> None:
    """Fetches ahead, and writes in order to nowhere, as `rclone cat > /dev/null` does."""
    with ThreadPoolExecutor(LANES) as pool, Path(os.devnull).open("wb", buffering=0) as sink:
        sink.writelines(pool.map(lambda number: storage.get(_name(number), PART_BYTES), range(_parts(source))))


def _parts(source: Path) -> int:
    return -(-source.stat().st_size // PART_BYTES)


def _name(number: int) -> str:
    return f"job/run/01-x/{number:06}"


if __name__ == "__main__":
    give_back_big_blocks()
    {"put": put, "get": get}[sys.argv[1]](open_storage(sys.argv[2]).storage, Path(sys.argv[3]))
