"""A tar archive on its way out, and what tar says while it writes one."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from typing import Any, Self

from dataguardian.domain.errors import DumpFailedError, IntegrityError
from dataguardian.engines.files.inspect import END_OF_ARCHIVE, ArchiveInspector
from dataguardian.engines.files.tar import BLOCKING_FACTOR, Tar
from dataguardian.engines.files.walk import VANISHED, Selection, Walk
from dataguardian.engines.processes import ChildProcess

MAX_NOTES = 100
_MAX_FAILURES = 10
_GONE = r"(?:No such file or directory|Not a directory)"
_HARMLESS = (
    # What tar says, what it means, and the highest exit code that it explains.
    (re.compile(r"(.*): file changed as we read it"), "changed while it was read", 1),
    (re.compile(r"(.*): (?:File|Directory) removed before we read it"), "vanished before it was read", 1),
    (
        re.compile(r"(.*): File shrank by \d+ bytes; padding with zeros"),
        "shrank while it was read: zeros fill it up",
        1,
    ),
    (re.compile(r"(.*): (?:socket|door) ignored"), "is a socket, which no archive can hold", 0),
    (re.compile(rf"(.*): Warning: Cannot \w+: (?:{_GONE}|No data available)"), "lost attributes while it was read", 0),
    (re.compile(rf"(.*): Cannot \w+: {_GONE}"), "vanished before it was read", 2),
    (re.compile(r"(.*): Cannot open: Too many levels of symbolic links"), "was replaced while it was read", 2),
)
_EPILOGUE = "Exiting with failure status due to previous errors"

_EXTRACT = (
    f"tar --extract --blocking-factor={BLOCKING_FACTOR} --read-full-records --preserve-permissions --numeric-owner"
    " --xattrs --xattrs-include='*' --delay-directory-restore"
)
"""With its own smaller records tar would leave the padding at the end unread, and the pipe before it would break."""
BY_HAND = [f"mkdir target && {_EXTRACT} --directory=target"]


class TarNotes:
    """Sorts what tar writes to stderr while it reads files. Whatever is not known to be harmless is a failure."""

    def __init__(self, program: str) -> None:
        self._prefix = f"{program}: "
        self._notes: list[str] = []
        self._note_count = 0
        self.failures: list[str] = []
        self.failure_count = 0
        self.explained_code = 0
        """The highest exit code of tar that harmless messages account for."""

    def take(self, line: str) -> None:
        """Takes one line; called from the thread that drains stderr."""
        text = line.removeprefix(self._prefix)
        if text == _EPILOGUE:
            return
        for pattern, meaning, code in _HARMLESS:
            if match := pattern.fullmatch(text):
                self.note(match[1], meaning)
                self.explained_code = max(self.explained_code, code)
                return
        self.fail(text)

    def note(self, name: str, meaning: str) -> None:
        self._note_count += 1
        if len(self._notes) < MAX_NOTES:
            self._notes.append(f"{name} {meaning}")

    def fail(self, text: str) -> None:
        self.failure_count += 1
        if len(self.failures) < _MAX_FAILURES:
            self.failures.append(text)

    @property
    def warnings(self) -> list[str]:
        """The first notes, and how many more there were."""
        more = self._note_count - len(self._notes)
        rest = [f"{more} more files changed, vanished or could not be held"] if more else []
        return [*self._notes, *rest]


class TarStream:
    """The one DumpStream of the files engine.

    tar that walks by itself holds on to each folder while it reads it. Names that it is given it looks up one by one: a
    folder that is replaced meanwhile may be a link in the archive with files below it, which nobody unpacks. So those
    archives are inspected while they pass.
    """

    kind = "tar"
    size_hint_bytes: int | None = None

    def __init__(self, tar: Tar, source: str, selection: Selection, *, name: str) -> None:
        self.name = name
        self.restore_by_hand = list(BY_HAND)
        self._tar = tar
        self._source = source
        self._identity = _identity(source)
        self._walk = None if selection.everything else Walk(source, selection)
        self._inspector = None if self._walk is None else ArchiveInspector(folders=self._walk.named_folders)
        self._notes = TarNotes(tar.path)
        self._last = b""
        self._child: ChildProcess | None = None
        self._feeder: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._child = ChildProcess(
            self._tar.dump_command(self._source, names_from_stdin=self._walk is not None),
            env=self._tar.environment(),
            stdin=self._walk is not None,
            stdout=True,
            on_stderr=self._notes.take,
        )
        if self._walk is not None:
            self._feeder = self._child.feed(self._walk.name_list())
        return self

    def __exit__(self, *exc: object) -> None:
        if self._walk is not None:
            self._walk.stop()
        if self._child is not None:
            self._child.abort()
        if self._feeder is not None:
            self._feeder.join()

    def readinto(self, buffer: memoryview) -> int:
        count = self._running.readinto(buffer)
        keep = len(END_OF_ARCHIVE)
        self._last = (self._last + bytes(buffer[max(0, count - keep) : count]))[-keep:]
        self._inspect(buffer[:count])
        return count

    def _inspect(self, piece: memoryview) -> None:
        if self._inspector is None:
            return
        try:
            self._inspector.feed(piece)
        except IntegrityError as error:
            raise DumpFailedError(
                f"{self._source!a} changed so that its archive could not be unpacked: {error.message}",
                hint="run the backup again, when nobody replaces folders by files or links",
            ) from error

    def finish(self) -> None:
        """Raises DumpFailedError unless tar said nothing bad, the archive ends well and the source is still there."""
        code = self._running.wait()
        if self._feeder is not None:
            self._feeder.join()
        self._adopt_walk()
        if self._notes.failures:
            raise _unreadable(self._source, self._notes)
        if not 0 <= code <= self._notes.explained_code:
            raise DumpFailedError(
                f"tar ended with code {code} while it read {self._source!a}: {self._running.stderr_text}",
                hint="look into the system's log for a killed process or a failing disk, then run the backup again",
            )
        if self._last != END_OF_ARCHIVE:
            raise DumpFailedError(f"tar stopped in the middle of the archive of {self._source!a}")
        if _identity(self._source) != self._identity:
            raise DumpFailedError(
                f"the folder {self._source!a} was removed, replaced or unmounted while it was read",
                hint="see that it is there and stays there, then run the backup again",
            )

    @property
    def metadata(self) -> dict[str, Any]:
        return {}

    @property
    def warnings(self) -> list[str]:
        return self._notes.warnings

    @property
    def _running(self) -> ChildProcess:
        if self._child is None:
            raise ValueError("the stream is read inside its context")
        return self._child

    def _adopt_walk(self) -> None:
        if self._walk is None:
            return
        for path in self._walk.vanished:
            self._notes.note(f"./{_printable(path)}", "vanished before it was read")
        for error in self._walk.failed:
            self._notes.fail(f"./{_printable(str(error.filename))}: {error.strerror}")


def _identity(source: str) -> tuple[int, int] | None:
    try:
        status = os.stat(source)  # noqa: PTH116 -- the path may hold bytes that are not UTF-8
    except OSError as error:
        if error.errno in VANISHED:
            return None
        raise DumpFailedError(f"{source!a} cannot be read any more: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _unreadable(source: str, notes: TarNotes) -> DumpFailedError:
    shown = notes.failures[:3]
    more = notes.failure_count - len(shown)
    text = "; ".join(shown) + (f"; and {more} more" if more else "")
    return DumpFailedError(
        f"not everything in {source!a} could be read: {text}",
        hint=_advice(notes.failures),
        count=notes.failure_count,
    )


def _advice(failures: Iterable[str]) -> str:
    if any("Permission denied" in line or "Operation not permitted" in line for line in failures):
        return "run the backup as a user that may read these files (root may), or leave them out with --exclude"
    if any("Input/output error" in line for line in failures):
        return "the disk or network file system fails: check it, save what can be read, or use --exclude"
    return "repair what tar names, or leave it out with --exclude"
