"""Compression and hash libraries on one core: whichever of them are installed."""

from __future__ import annotations

import bz2
import hashlib
import importlib
import time
import zlib
from collections.abc import Callable
from typing import Any

SAMPLE_BYTES = 64 << 20
PART_BYTES = 16 << 20
TRIES = 3

Compress = Callable[[bytes], bytes]
Row = dict[str, Any]


def measure(sample: bytes) -> list[Row]:
    """Returns a row per library and level: MB/s both ways (best of three) and the ratio, in parts of 16 MiB."""
    parts = [sample[start : start + PART_BYTES] for start in range(0, len(sample), PART_BYTES)]
    rows = [_row(name, compress, expand, parts) for name, compress, expand in _codecs()]
    hashes = {name: round(len(sample) / _hash_seconds(name, parts) / 1e6) for name in ("sha256", "blake2b")}
    return rows + [{"what": name, "compress_mb_s": rate} for name, rate in hashes.items()]


def _hash_seconds(name: str, parts: list[bytes]) -> float:
    return _best(lambda: [hashlib.new(name, part).digest() for part in parts])


def _row(name: str, compress: Compress, expand: Compress, parts: list[bytes]) -> Row:
    packed = [compress(part) for part in parts]
    if [expand(part) for part in packed] != parts:
        raise SystemExit(f"{name} does not give back what it was given")
    size, stored = sum(map(len, parts)), sum(map(len, packed))
    there = _best(lambda: [compress(part) for part in parts])
    back = _best(lambda: [expand(part) for part in packed])
    return {
        "what": name,
        "compress_mb_s": round(size / there / 1e6),
        "expand_mb_s": round(size / back / 1e6),
        "ratio": round(size / stored, 2),
    }


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _codecs() -> list[tuple[str, Compress, Compress]]:
    found: list[tuple[str, Compress, Compress]] = [
        ("zlib 6", lambda part: zlib.compress(part, 6), zlib.decompress),
        ("bz2 9", bz2.compress, bz2.decompress),
    ]
    for module, make in (
        ("zstandard", _zstandard),
        ("compression.zstd", _standard_zstd),
        ("backports.zstd", _standard_zstd),
        ("pyzstd", _standard_zstd),
        ("isal.isal_zlib", _isal),
        ("lz4.frame", _lz4),
    ):
        try:
            found += make(importlib.import_module(module))
        except ImportError:
            continue
    return found


def _zstandard(library: Any) -> list[tuple[str, Compress, Compress]]:
    def codec(level: int) -> tuple[str, Compress, Compress]:
        packer = library.ZstdCompressor(level=level, write_checksum=True)
        return f"zstandard {level}", packer.compress, library.ZstdDecompressor().decompress

    return [codec(level) for level in (1, 3, 6, 9)]


def _standard_zstd(library: Any) -> list[tuple[str, Compress, Compress]]:
    return [(f"{library.__name__} {level}", _at(library, level), library.decompress) for level in (1, 3)]


def _isal(library: Any) -> list[tuple[str, Compress, Compress]]:
    return [(f"isal {level}", _at(library, level), library.decompress) for level in (1, 2, 3)]


def _lz4(library: Any) -> list[tuple[str, Compress, Compress]]:
    return [("lz4 0", library.compress, library.decompress)]


def _at(library: Any, level: int) -> Compress:
    def compress(part: bytes) -> bytes:
        packed: bytes = library.compress(part, level)
        return packed

    return compress
