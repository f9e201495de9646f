"""Which files a backup holds: the walk of a source folder under include and exclude patterns."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dataguardian.engines.files.patterns import Patterns

_BATCH_BYTES = 64 * 1024
VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening a folder says that was removed or replaced a moment ago."""


class Selection:
    """Patterns as docs/patterns.md explains them: exclude prunes folders and wins, include selects."""

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = Patterns(include)
        self._exclude = Patterns(exclude)

    @property
    def everything(self) -> bool:
        """True when there are no patterns, so that nobody needs to walk."""
        return not self._include and not self._exclude

    @property
    def by_default(self) -> bool:
        """Whether a path is selected that no include pattern names."""
        return not self._include

    def excludes(self, path: str, *, is_dir: bool) -> bool:
        return self._exclude.match(path, is_dir=is_dir)

    def includes(self, path: str, *, is_dir: bool) -> bool:
        return self._include.match(path, is_dir=is_dir)

    def reads(self, path: str) -> bool:
        """Tells whether the file at `path` is selected, by itself or with one of its folders."""
        ends = [at for at, char in enumerate(path) if char == "/"] + [len(path)]
        names = [(path[:end], end < len(path)) for end in ends]
        if any(self.excludes(name, is_dir=is_dir) for name, is_dir in names):
            return False
        return self.by_default or any(self.includes(name, is_dir=is_dir) for name, is_dir in names)


@dataclass
class _Folder:
    path: str
    """Relative to the source; '' is the source itself."""
    selected: bool
    parent: _Folder | None
    listed: bool
    """Whether the folder itself was yielded; those that only lead to selected files are, just before the first."""

    def unlisted(self) -> list[str]:
        """Marks and returns this folder and its parents, topmost first, as far as they were not yielded yet."""
        found: list[str] = []
        folder: _Folder | None = self
        while folder is not None and not folder.listed:
            folder.listed = True
            found.append(folder.path)
            folder = folder.parent
        return found[::-1]


@dataclass
class Walk:
    """A walk below `source`, which never follows symbolic links. Errors are collected, never raised."""

    source: str
    selection: Selection
    vanished: list[str] = field(default_factory=list)
    failed: list[OSError] = field(default_factory=list)
    named_folders: set[bytes] = field(default_factory=set)
    """What `name_list` gave as folders, until whoever sees them arrive takes them out."""
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Ends the walk soon; for another thread."""
        self._stopped.set()

    def entries(self) -> Iterator[tuple[str, os.DirEntry[str] | None]]:
        """Yields (relative path, entry) of everything selected, parents first; the entry is None for parents that
        only lead to something selected.
        """
        stack = [_Folder("", selected=self.selection.by_default, parent=None, listed=True)]
        while stack and not self._stopped.is_set():
            folder = stack.pop()
            for entry in self._scan(folder.path):
                path = f"{folder.path}/{entry.name}" if folder.path else entry.name
                is_dir = entry.is_dir(follow_symlinks=False)
                if self.selection.excludes(path, is_dir=is_dir):
                    continue
                selected = folder.selected or self.selection.includes(path, is_dir=is_dir)
                if selected:
                    yield from ((parent, None) for parent in folder.unlisted())
                    yield path, entry
                if is_dir:
                    stack.append(_Folder(path, selected=selected, parent=folder, listed=selected))

    def name_list(self) -> Iterator[bytes]:
        """Yields what `tar --null -T -` reads: zero-terminated names that begin with `./`, in batches."""
        batch = bytearray(b"./\0")
        for path, entry in self.entries():
            name = os.fsencode(path)
            if entry is None or entry.is_dir(follow_symlinks=False):
                self.named_folders.add(name)
            batch += b"./" + name + b"\0"
            if len(batch) >= _BATCH_BYTES:
                yield bytes(batch)
                batch.clear()
        yield bytes(batch)

    def _scan(self, path: str) -> Iterator[os.DirEntry[str]]:
        # O_NOFOLLOW: a folder that was replaced by a link a moment ago must not lead the walk out of the source.
        flags = os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if path else 0)
        try:
            descriptor = os.open(os.path.join(self.source, path), flags)  # noqa: PTH118 -- bytes that are not UTF-8
            try:
                with os.scandir(descriptor) as found:
                    yield from found
            finally:
                os.close(descriptor)
        except OSError as error:
            if path and error.errno in VANISHED:
                self.vanished.append(path)
            else:
                self.failed.append(OSError(error.errno, error.strerror, path or "."))
