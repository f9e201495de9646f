"""Reads a tar archive as it passes, and refuses entries that would leave the folder that it is unpacked in.

Only what `dump` writes is accepted: the pax format of POSIX.1-2001 with GNU's sparse files 1.0 (the manual of GNU tar,
"Tar Internals"). Being stricter than tar is what makes this safe: where the two could understand one archive in
different ways, it is refused before tar sees it. tar's own guards stay on behind this one.

What gives power over a machine can be taken out on the way: a storage that others write to must not leave a readable
disk, or a set-user-ID program, behind on the machine that restores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from dataguardian.domain.errors import IntegrityError

BLOCK_BYTES = 512
_END_BLOCKS = 2
END_OF_ARCHIVE = bytes(_END_BLOCKS * BLOCK_BYTES)
_MAX_PAX_BYTES = 64 * 1024 * 1024
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_REGULAR = b"0"
_HARD_LINK = b"1"
_SYMBOLIC_LINK = b"2"
_DEVICES = frozenset({b"3", b"4"})
_FOLDER = b"5"
_WITHOUT_CONTENT = frozenset({_HARD_LINK, _SYMBOLIC_LINK, b"3", b"4", _FOLDER, b"6"})
_PAX = b"x"
_PAX_KEYS = frozenset(
    {b"path", b"linkpath", b"size", b"uid", b"gid", b"uname", b"gname", b"mtime", b"atime", b"ctime"}
    | {b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name", b"GNU.sparse.realsize"}
    | {b"RHT.security.selinux"}
)
_PAX_FAMILIES = (b"SCHILY.xattr.", b"SCHILY.acl.")
_CAPABILITIES = b"SCHILY.xattr.security.capability"
_SET_ID = 0o6000
_MODE, _KIND, _CHECKSUM, _DEVICE = slice(100, 108), slice(156, 157), slice(148, 156), slice(329, 345)
_SHOWN_ENTRIES = 10

Privileges = Literal["none", "programs", "all"]
"""What a restore gives back: `programs` has set-user-ID, set-group-ID and capabilities, `all` has device nodes, too."""


class ArchiveInspector:
    """Fed the archive's bytes in pieces of any size; raises IntegrityError before a piece at fault is used.

    Unless `privileges` are all, pieces are whole blocks, and `disarmed` returns the last one as it may be unpacked.
    `folders` are paths that were listed as folders, each taken out when its entry passes: below one that has become a
    file, nothing may follow either.
    """

    def __init__(self, privileges: Privileges = "all", folders: set[bytes] | None = None) -> None:
        self.entries = 0
        self.powers: list[str] = []
        """Entries whose power over the machine was taken out."""
        self._privileges = privileges
        self._folders = folders if folders is not None else set()
        self._at = 0
        self._changed: dict[int, bytes] = {}
        self._links: set[bytes] = set()
        self._pax: dict[bytes, bytes] = {}
        self._pax_bytes: int | None = None
        self._partial = bytearray()
        self._skip = 0
        self._zero_blocks = 0

    def feed(self, chunk: bytes | memoryview) -> None:
        view = memoryview(chunk)
        at = 0
        self._changed.clear()
        while at < len(view):
            if self._skip:
                step = min(self._skip, len(view) - at)
                self._skip -= step
            elif self.ended:
                step = len(view) - at
                self._take_padding(view[at:])
            else:
                self._at = at
                step = self._collect(view[at:])
            at += step

    def disarmed(self, chunk: bytes) -> bytes:
        """Returns the piece that was fed last, without what gives power over the machine."""
        if not self._changed:
            return chunk
        changed = bytearray(chunk)
        for at, block in self._changed.items():
            changed[at : at + BLOCK_BYTES] = block
        return bytes(changed)

    @property
    def ended(self) -> bool:
        """Whether the two zero blocks that end an archive have passed."""
        return self._zero_blocks >= _END_BLOCKS

    def finish(self) -> None:
        """Called after the last piece: raises IntegrityError unless the archive had come to its end."""
        if not self.ended:
            raise IntegrityError("the archive is cut off: its end is missing")

    def _collect(self, view: memoryview) -> int:
        """Takes what completes the current block or pax record; returns how many bytes that were."""
        wanted = _padded(self._pax_bytes) if self._pax_bytes is not None else BLOCK_BYTES
        step = min(wanted - len(self._partial), len(view))
        self._partial += view[:step]
        if len(self._partial) == wanted:
            block = bytes(self._partial)
            self._partial.clear()
            self._take(block)
        return step

    def _take(self, block: bytes) -> None:
        if self._pax_bytes is not None:
            self._pax = dict(_pax_records(block[: self._pax_bytes]))
            self._pax_bytes = None
        elif block == _ZERO_BLOCK:
            self._zero_blocks += 1
        elif self._zero_blocks:
            raise IntegrityError("the archive goes on after a block that ends it")
        else:
            self._take_header(block)

    def _take_header(self, block: bytes) -> None:
        kind = block[156:157]
        name = _header_name(block)
        if _checksum(block) != _octal(block[148:156]) or block[257:265] != b"ustar\x0000":
            raise IntegrityError(f"the archive is damaged at its entry {_shown(name)}")
        size_bytes = _octal(block[124:136])
        if kind == _PAX:
            self._begin_pax(name, size_bytes)
            return
        self._take_entry(kind, name, block[157:257].partition(b"\0")[0])
        if b"size" in self._pax:
            size_bytes = _decimal(self._pax[b"size"])
        if size_bytes and kind in _WITHOUT_CONTENT:
            raise IntegrityError(f"the archive's entry {_shown(name)} has content that its kind cannot have")
        if self._privileges != "all":
            self._take_power(kind, self._pax.get(b"path", name), block)
        self._skip = _padded(size_bytes)
        self._pax = {}
        self.entries += 1

    def _take_power(self, kind: bytes, name: bytes, block: bytes) -> None:
        """A device becomes an empty file that nobody may read; a program, with no privileges at all, loses set-user-ID
        and set-group-ID. Those of folders give no power. What capabilities a file has is left out by tar.
        """
        mode = _octal(block[_MODE])
        is_device, is_stripped = kind in _DEVICES, self._privileges == "none"
        if is_device or (is_stripped and kind in (_REGULAR, _HARD_LINK) and mode & _SET_ID):
            harmless = bytearray(block)
            harmless[_MODE] = b"%07o\0" % (0 if is_device else mode & ~_SET_ID)
            if is_device:
                harmless[_KIND], harmless[_DEVICE] = _REGULAR, bytes(16)
            harmless[_CHECKSUM] = b"%06o\0 " % _checksum(bytes(harmless))
            self._changed[self._at] = bytes(harmless)
        elif not is_stripped or _CAPABILITIES not in self._pax:
            return
        self.powers.append(_shown(name) if len(self.powers) < _SHOWN_ENTRIES else "")

    def _begin_pax(self, name: bytes, size_bytes: int) -> None:
        if self._pax or not 0 < size_bytes <= _MAX_PAX_BYTES:
            raise IntegrityError(f"the archive's extended header {_shown(name)} is malformed")
        self._pax_bytes = size_bytes

    def _take_entry(self, kind: bytes, name: bytes, link: bytes) -> None:
        name = self._pax.get(b"path", name)
        if kind != _REGULAR and kind not in _WITHOUT_CONTENT:
            raise IntegrityError(f"the archive's entry {_shown(name)} is of a kind that no backup holds: {kind!r}")
        path = self._safe(name, name)
        if b"GNU.sparse.name" in self._pax:
            path = self._safe(self._pax[b"GNU.sparse.name"], name)
        if not path and kind != _FOLDER:
            raise IntegrityError(f"the archive's entry {_shown(name)} would replace the target itself")
        link = self._pax.get(b"linkpath", link)
        if kind == _SYMBOLIC_LINK or (kind == _HARD_LINK and self._safe(link, name, last=False) in self._links):
            self._links.add(path)
        if path in self._folders:
            self._folders.discard(path)
            if kind != _FOLDER:
                self._links.add(path)

    def _safe(self, path: bytes, entry: bytes, *, last: bool = True) -> bytes:
        """Returns the path in its plain form; `last` tells whether its last name, too, must not be a link that the
        archive made.
        """
        names = [name for name in path.split(b"/") if name not in (b"", b".")]
        if path.startswith(b"/") or b".." in names or b"\0" in path:
            raise IntegrityError(
                f"the archive's entry {_shown(entry)} would leave the target folder, and was refused",
                entry=_shown(entry),
            )
        if self._links:
            self._refuse_links(names, entry, len(names) + last)
        return b"/".join(names)

    def _refuse_links(self, names: list[bytes], entry: bytes, end: int) -> None:
        if any(b"/".join(names[:count]) in self._links for count in range(1, end)):
            raise IntegrityError(
                f"the archive's entry {_shown(entry)} would be written through a symbolic link, or below a file,"
                " that the archive itself made, and was refused",
                entry=_shown(entry),
            )

    @staticmethod
    def _take_padding(view: memoryview) -> None:
        if bytes(view).count(0) != len(view):
            raise IntegrityError("the archive goes on after its end")


def feed_inspected(
    chunks: Iterator[bytes],
    write: Callable[[bytes], None],
    *,
    stop: Callable[[], bool] = lambda: False,
    privileges: Privileges = "all",
) -> list[str]:
    """Writes an archive to tar, every piece after its inspection; returns early when `stop` says so.

    Raises IntegrityError, and BrokenPipeError when tar went away before the archive's end. After it, it may: tar does
    not wait for the padding, which is still pulled and inspected here. What gives power over the machine is taken
    out unless `privileges` have it; returns a warning when there was any.
    """
    inspector = ArchiveInspector(privileges)
    listening = True
    for chunk in chunks if privileges == "all" else _whole_blocks(chunks):
        inspector.feed(chunk)
        try:
            if listening:
                write(inspector.disarmed(chunk))
        except BrokenPipeError:
            if not inspector.ended:
                raise
            listening = False
        if stop():
            return []
    inspector.finish()
    return _told(inspector.powers)


def _told(powers: list[str]) -> list[str]:
    if not powers:
        return []
    named = ", ".join(filter(None, powers)) + (", …" if len(powers) > _SHOWN_ENTRIES else "")
    told = (
        f"{len(powers)} entries were restored without what gives power over the machine (device nodes became empty "
        f"files, programs lost set-user-ID, set-group-ID and capabilities): {named}. The setting restore_privileges of "
        "the target decides"
    )
    return [told]


def _whole_blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the same bytes in pieces that end where a block ends, so that every header lies in one piece."""
    rest = b""
    for chunk in chunks:
        whole = rest + chunk if rest else chunk
        end = len(whole) // BLOCK_BYTES * BLOCK_BYTES
        rest = whole[end:]
        if end:
            yield whole[:end] if rest else whole
    if rest:
        yield rest


def _padded(size_bytes: int) -> int:
    return (size_bytes + BLOCK_BYTES - 1) // BLOCK_BYTES * BLOCK_BYTES


def _header_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _checksum(block: bytes) -> int:
    """The sum of all bytes, where those of the checksum itself count as spaces."""
    return sum(block) - sum(block[148:156]) + 8 * 0x20


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if digits.translate(None, b"01234567"):
        raise IntegrityError("the archive is damaged: a header holds a number that is none")
    return int(digits or b"0", 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit():
        raise IntegrityError("the archive is damaged: an extended header holds a number that is none")
    return int(text)


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the (key, value) pairs of an extended header: lines of `<length> <key>=<value>`."""
    at = 0
    seen: set[bytes] = set()
    while at < len(data):
        length, _, _ = data[at : at + 12].partition(b" ")
        end = at + _decimal(length)
        key, equals, value = data[at + len(length) + 1 : end - 1].partition(b"=")
        known = key in _PAX_KEYS or key.startswith(_PAX_FAMILIES)
        if end > len(data) or data[end - 1 : end] != b"\n" or not equals or not known or key in seen:
            raise IntegrityError(f"the archive holds an extended header that no backup has: {_shown(key[:80])}")
        seen.add(key)
        yield key, value
        at = end


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii")
