"""The header: for whom the file key was wrapped, and a MAC over all of it."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

from dataguardian.streams.age.wire import NotAgeError, decode, derived, encode

INTRO = b"age-encryption.org/v1\n"
MAX_HEADER_BYTES = 256 * 1024
MAX_STANZAS = 128
_COLUMNS = 64
_FOOTER = re.compile(rb"--- ([A-Za-z0-9+/]{43})\n")
_ARGUMENT = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Stanza:
    """One recipient's: `arguments` are its type and what belongs to it, `body` the file key as wrapped for it."""

    arguments: tuple[str, ...]
    body: bytes

    @property
    def type(self) -> str:
        return self.arguments[0]

    def encoded(self) -> bytes:
        text = encode(self.body)
        lines = [text[start : start + _COLUMNS] for start in range(0, len(text) + 1, _COLUMNS)]
        if len(lines[-1]) == _COLUMNS:
            lines.append("")
        return "\n".join([" ".join(["->", *self.arguments]), *lines, ""]).encode()


@dataclass(frozen=True)
class Header:
    """A parsed header: `size_bytes` is where the payload begins; the MAC is not checked yet."""

    stanzas: tuple[Stanza, ...]
    size_bytes: int
    _covered: bytes
    _mac: bytes

    def belongs_to(self, file_key: bytes) -> bool:
        return hmac.compare_digest(_mac_of(file_key, self._covered), self._mac)


def encode_header(stanzas: Iterable[Stanza], file_key: bytes) -> bytes:
    covered = INTRO + b"".join(stanza.encoded() for stanza in stanzas) + b"---"
    return covered + b" " + encode(_mac_of(file_key, covered)).encode() + b"\n"


def decode_header(data: bytes | bytearray | memoryview) -> Header:
    """Returns the header at the beginning of a file; raises NotAgeError. Bounded in size and in recipients."""
    start = bytes(data[:MAX_HEADER_BYTES])
    if not start.startswith(INTRO):
        raise NotAgeError("not an age file of version 1")
    at = len(INTRO)
    stanzas: list[Stanza] = []
    while not start.startswith(b"---", at):
        if len(stanzas) == MAX_STANZAS:
            raise NotAgeError("more recipients than any backup has")
        stanza, at = _stanza(start, at)
        stanzas.append(stanza)
    footer = _FOOTER.match(start, at)
    if footer is None or not stanzas:
        raise NotAgeError("a header without its end")
    return Header(tuple(stanzas), footer.end(), start[: at + 3], decode(footer[1].decode()))


def _stanza(start: bytes, at: int) -> tuple[Stanza, int]:
    first, at = _line(start, at)
    arrow, *arguments = first.split(" ")
    if arrow != "->" or not arguments or not all(_ARGUMENT.fullmatch(argument) for argument in arguments):
        raise NotAgeError("not a recipient's stanza")
    lines: list[str] = []
    while not lines or len(lines[-1]) == _COLUMNS:
        line, at = _line(start, at)
        lines.append(line)
    if len(lines[-1]) > _COLUMNS:
        raise NotAgeError("a line that is too long")
    return Stanza(tuple(arguments), decode("".join(lines))), at


def _line(start: bytes, at: int) -> tuple[str, int]:
    end = start.find(b"\n", at)
    if end < 0:
        raise NotAgeError("a header that ends early, or is too long")
    try:
        return start[at:end].decode("ascii"), end + 1
    except UnicodeDecodeError as error:
        raise NotAgeError("a header that is not text") from error


def _mac_of(file_key: bytes, covered: bytes) -> bytes:
    return hmac.digest(derived(file_key, salt=b"", info=b"header"), covered, "sha256")
