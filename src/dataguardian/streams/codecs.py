"""Compressors. Every part is one complete frame, and concatenated frames decompress with the stock tools.

The libraries were chosen by measurement (docs/architecture.md has the figures). All of them release the GIL.
"""

from __future__ import annotations

import threading
import zlib
from abc import ABC, abstractmethod
from typing import ClassVar

import lz4.frame
import zstandard
from isal import igzip_lib, isal_zlib

from dataguardian.domain.errors import DamagedPartError, UsageError

Data = bytes | bytearray | memoryview

ISAL_MAX_LEVEL = 3
FITTED_LEVEL = 3
FITTED_SOURCE_BYTES = 16 * 1024 * 1024


class Codec(ABC):
    """One compression with a level. Safe for several threads at once."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    command: ClassVar[str]
    """The stock command that turns concatenated parts on standard input into raw bytes on standard output."""
    default_level: ClassVar[int | None]
    levels: ClassVar[range]

    def __init__(self, level: int | None = None) -> None:
        self.level = self.default_level if level is None else level
        if level is not None and level not in self.levels:
            known = f"levels {self.levels.start} to {self.levels.stop - 1}" if self.levels else "no levels"
            raise UsageError(f"{self.name} has no level {level}", hint=f"{self.name} knows {known}", level=level)

    @abstractmethod
    def compress(self, data: Data) -> bytes | memoryview:
        """Returns one frame that holds `data`."""

    @abstractmethod
    def _expand(self, data: bytes | bytearray, limit_bytes: int) -> bytes:
        """Decompresses one frame to at most `limit_bytes`; anything else about it raises."""

    def decompress(self, data: bytes | bytearray, size_bytes: int) -> bytes:
        """Returns the frame's content, which must have exactly `size_bytes`; raises DamagedPartError otherwise.

        Never allocates more than `size_bytes` and a little, whatever the frame says of itself.
        """
        try:
            raw = self._expand(data, size_bytes)
        except DamagedPartError:
            raise
        except Exception as error:  # each library has its own, and RuntimeError, EOFError and ValueError besides
            raise DamagedPartError(f"a part does not decompress as {self.name}") from error
        if len(raw) != size_bytes:
            raise DamagedPartError(f"a part holds {len(raw)} bytes where {size_bytes} were recorded")
        return raw


class Zstd(Codec):
    name = "zstd"
    suffix = ".zst"
    command = "zstd -dc"
    default_level = 3
    levels = range(1, 20)

    def __init__(self, level: int | None = None) -> None:
        super().__init__(level)
        self._local = threading.local()

    def compress(self, data: Data) -> bytes:
        if not hasattr(self._local, "compressor"):
            self._local.compressor = zstandard.ZstdCompressor(compression_params=_parameters(self.level or 3))
        frame: bytes = self._local.compressor.compress(data)
        return frame

    def _expand(self, data: bytes | bytearray, limit_bytes: int) -> bytes:
        # The library trusts the size in the frame's header and would allocate it, so it is compared first.
        if zstandard.frame_content_size(data) != limit_bytes:
            raise DamagedPartError("a zstd part announces another size than was recorded")
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)


def _parameters(level: int) -> zstandard.ZstdCompressionParameters:
    """The library's own parameters of a level. At 3 the window and the tables are cut to what a core's cache holds:
    a quarter faster; database dumps even shrink by 0 to 3 %, file trees grow by 2 to 4 % (docs/architecture.md).
    """
    fitted = {"window_log": 20, "chain_log": 13} if level == FITTED_LEVEL else {}
    return zstandard.ZstdCompressionParameters.from_level(
        level, source_size=FITTED_SOURCE_BYTES, write_checksum=1, write_content_size=1, **fitted
    )


class Gzip(Codec):
    """Levels 1 to 3 by ISA-L (1 is 20 to 30 times as fast as zlib's 6 at nearly its ratio), 4 to 9 by zlib."""

    name = "gzip"
    suffix = ".gz"
    command = "gzip -dc"
    default_level = 1
    levels = range(1, 10)

    def compress(self, data: Data) -> bytes:
        level = self.level or 1
        engine = isal_zlib if level <= ISAL_MAX_LEVEL else zlib
        frame: bytes = engine.compress(data, level, wbits=31)
        return frame

    def _expand(self, data: bytes | bytearray, limit_bytes: int) -> bytes:
        expander = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        raw: bytes = expander.decompress(data, max_length=limit_bytes + 1)
        if not expander.eof or expander.unused_data:
            raise DamagedPartError("a gzip part is not one complete member")
        return raw


class Lz4(Codec):
    name = "lz4"
    suffix = ".lz4"
    command = "lz4 -dc"
    default_level = 0
    levels = range(13)

    def compress(self, data: Data) -> bytes:
        frame: bytes = lz4.frame.compress(
            data, compression_level=self.level or 0, content_checksum=True, block_linked=False
        )
        return frame

    def _expand(self, data: bytes | bytearray, limit_bytes: int) -> bytes:
        expander = lz4.frame.LZ4FrameDecompressor()
        raw: bytes = expander.decompress(data, max_length=limit_bytes + 1)
        if not expander.eof or expander.unused_data:
            raise DamagedPartError("an lz4 part is not one complete frame")
        return raw


class Stored(Codec):
    """No compression: for sources that are compressed already."""

    name = "none"
    suffix = ""
    command = "cat"
    default_level = None
    levels = range(0)

    def compress(self, data: Data) -> bytes:
        return bytes(data)

    def _expand(self, data: bytes | bytearray, limit_bytes: int) -> bytes:
        return bytes(data[: limit_bytes + 1])


CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (Zstd, Gzip, Lz4, Stored)}


def codec_for(name: str, level: int | None = None) -> Codec:
    """Returns the codec; raises UsageError for a name or level that does not exist."""
    if name not in CODECS:
        raise UsageError(f"there is no compression {name!r}", hint=f"known: {', '.join(CODECS)}", compression=name)
    return CODECS[name](level)
