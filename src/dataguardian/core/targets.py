"""Where one backup goes: one storage, or several that get identical bytes from the same buffer.

Each of several targets has threads of its own. Whoever stores an object waits until every target has it, so that parts
in memory stay within the one budget of the pipeline. A target that fails, or that still lacks what another one has held
for `lag_seconds`, is detached: it gets nothing more and nobody waits for it again. One target alone has no threads and
no limit, and its errors come through as they are.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from dataguardian.domain import artifact
from dataguardian.domain.errors import (
    CancelledError,
    ConflictError,
    DataGuardianError,
    StorageError,
    StorageTransientError,
    is_transient,
)
from dataguardian.domain.states import TargetStatus
from dataguardian.storage.base import Data, Storage

DEFAULT_LAG_SECONDS = 60.0
CLEAR_SECONDS = 20.0
"""How long the removal of what a failed run stored may take at several targets; less than a runner is given to end."""
Work = Callable[[Storage], None]


@dataclass(frozen=True)
class Target:
    """A storage and what people call it. `broken`: why it cannot even be opened, and then there is no storage."""

    name: str
    storage: Storage | None
    broken: DataGuardianError | None = None


@dataclass(frozen=True)
class TargetOutcome:
    """What became of one target, in the order in which they were given. `code` and `message` say what went wrong."""

    name: str
    status: TargetStatus
    code: str = ""
    message: str = ""


class Targets:
    """The targets of one run. Several of them need `stop` when the run is over, however it ended."""

    def __init__(self, targets: Sequence[Target], *, lag_seconds: float = DEFAULT_LAG_SECONDS) -> None:
        self._lines = [_Line(target) for target in targets]
        self._alone = len(self._lines) == 1
        self._lag_seconds = lag_seconds
        self._news = threading.Condition()
        self._stopped = False
        if not self.storages:
            raise _all_gone(self._lines)

    @classmethod
    def only(cls, storage: Storage) -> Targets:
        return cls([Target("the storage", storage)])

    @property
    def storages(self) -> list[Storage]:
        """Those of the targets that still take part."""
        return [line.storage for line in self._lines if line.error is None and line.storage is not None]

    def share(self, in_flight: int) -> None:
        """Divides the calls that may run at once: what a target that hangs keeps in memory is its share."""
        for line in self._lines:
            line.most = max(1, -(-in_flight // len(self._lines)))

    def claim(self, directory: str) -> None:
        """Proves, before the engine is bothered, that the storages are there and the directory is nobody else's.

        What a failed run removes must be its own.
        """

        def look(storage: Storage) -> None:
            storage.free_space()
            if any(True for _ in storage.list(directory)):
                raise ConflictError(
                    f"{directory} holds something already", hint="every run needs a directory of its own"
                )

        self.each(look)
        for line in self._lines:
            line.ours = line.error is None

    def put(self, path: str, data: Data, sha256: str | None = None) -> None:
        """Stores an object with all that still take part; with its hash, looks at what arrived."""

        def put(storage: Storage) -> None:
            if sha256 is None:
                storage.put(path, data)
            else:
                storage.put_hashed(path, data, sha256)
                check_arrived(storage, path, len(data), sha256)

        self.each(put)

    def each(self, work: Work) -> None:
        """Does something with every target that still takes part, and returns when each has done it or is detached.

        Raises the error of the only target, or of one of several when none is left.
        """
        if self._alone:
            for storage in self.storages:
                work(storage)
            return
        calls = [_Call(line, work) for line in self._lines if line.error is None]
        del work
        for call in calls:
            self._submit(call)
        try:
            with self._news:
                self._settle(calls)
        finally:
            for call in calls:
                call.let_go()

    def clear(self, directory: str) -> list[str]:
        """Removes what was stored of a run that failed; returns, in words, what could not be removed."""
        if self._alone:
            return [trouble for line in self._lines if (trouble := _cleared(line, directory)) is not None]
        self.stop()
        troubles: dict[_Line, str | None] = {
            line: f"and what was stored in {directory} of {line.target.name} may still be there: it does not answer"
            for line in self._lines
            if line.ours
        }

        def clear(line: _Line) -> None:
            with self._news:
                self._news.wait_for(lambda: line.under_way == 0, CLEAR_SECONDS)
            if line.under_way == 0:  # else a late part could come after the removal
                troubles[line] = _cleared(line, directory)

        threads = [threading.Thread(target=clear, args=(line,), name="clear", daemon=True) for line in troubles]
        for thread in threads:
            thread.start()
        until = time.monotonic() + CLEAR_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return [trouble for trouble in list(troubles.values()) if trouble is not None]

    def stop(self) -> None:
        """Ends the threads as soon as they are idle, and everybody's waiting at once."""
        with self._news:
            self._stopped = True
            self._news.notify_all()
        for line in self._lines:
            line.end()

    def outcomes(self) -> list[TargetOutcome]:
        """Returns what became of each target, to be asked after the last `put`."""
        return [line.outcome() for line in self._lines]

    def _submit(self, call: _Call) -> None:
        line = call.line
        with self._news:
            if self._stopped:  # the threads may have ended: nobody would do it, and the removal would wait for it
                raise CancelledError("the run is over")
            line.under_way += 1
            start = line.under_way > line.threads and line.threads < line.most
            line.threads += int(start)
            line.calls.put(call)
        if start:
            threading.Thread(target=self._serve, args=(line,), name="target", daemon=True).start()

    def _serve(self, line: _Line) -> None:
        """A thread of one target. It is a daemon: a call that hangs must not keep the process from ending."""
        while (call := line.calls.get()) is not None:
            error: BaseException | None = None
            try:
                if line.error is None and not self._stopped:
                    call.work(line.target.storage)  # type: ignore[arg-type]  # a target without one never gets here
            except BaseException as raised:  # noqa: BLE001 -- raised again, or told, where it is waited for
                traceback.clear_frames(raised.__traceback__)  # they hold the part
                error = raised
            with self._news:
                call.finish(error)
                line.under_way -= 1
                self._news.notify_all()
            del call, error

    def _settle(self, calls: Sequence[_Call]) -> None:
        """Waits, with the lock held, until nothing is left to wait for."""
        until: float | None = None
        while True:
            self._detach_failed(calls)
            waiting = [call for call in calls if not call.done and call.line.error is None]
            if not waiting:
                break
            if until is None and any(call.good for call in calls):
                until = time.monotonic() + self._lag_seconds
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                for call in waiting:
                    call.line.error = _lagging(self._lag_seconds)
            else:
                self._news.wait(left)
        if not self.storages:
            raise _all_gone(self._lines)

    def _detach_failed(self, calls: Sequence[_Call]) -> None:
        if self._stopped:
            raise CancelledError("the run is over")
        for call in calls:
            if isinstance(call.error, CancelledError):
                raise call.error
            if call.error is not None and call.line.error is None:
                call.line.error = _told(call.error)


class _Line:
    """The way to one target. `ours`: its directory was found empty; `error`: why it is detached."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.storage = target.storage
        self.error = target.broken
        self.ours = False
        self.most = 1
        self.threads = 0
        self.under_way = 0
        self.calls: SimpleQueue[_Call | None] = SimpleQueue()

    def end(self) -> None:
        for _ in range(self.threads):
            self.calls.put(None)

    def outcome(self) -> TargetOutcome:
        if self.error is None:
            return TargetOutcome(self.target.name, TargetStatus.STORED)
        return TargetOutcome(self.target.name, TargetStatus.BEHIND, self.error.code, self.error.message)


class _Call:
    """One piece of work at one target."""

    def __init__(self, line: _Line, work: Work) -> None:
        self.line = line
        self.work = work
        self.done = False
        self.error: BaseException | None = None

    @property
    def good(self) -> bool:
        return self.done and self.error is None and self.line.error is None

    def finish(self, error: BaseException | None) -> None:
        self.done, self.error = True, error
        self.let_go()

    def let_go(self) -> None:
        """Drops the part: a call that nobody waits for may stay in the queue of a target that hangs."""
        self.work = _nothing


def check_arrived(storage: Storage, path: str, size_bytes: int, sha256: str) -> None:
    """Raises StorageError unless the storage holds so many bytes and, where it hashes itself, these."""
    arrived = storage.stat(path)
    if arrived.size_bytes != size_bytes or arrived.sha256 not in (None, sha256):
        raise StorageError(
            f"the storage accepted {path} but holds something else",
            hint="run the backup again; if it happens again, do not trust this storage",
            path=path,
        )


def remove_directory(storage: Storage, directory: str) -> None:
    """Deletes a backup's objects, the manifest first: from then on it is no backup."""
    storage.delete(f"{directory}/{artifact.MANIFEST}")
    for entry in list(storage.list(directory)):
        storage.delete(entry.path)


def _nothing(_: Storage) -> None:
    """What a call that has ended does."""


def _cleared(line: _Line, directory: str) -> str | None:
    if not line.ours or line.storage is None:
        return None
    try:
        remove_directory(line.storage, directory)
    except DataGuardianError as trouble:
        return f"and what was stored in {directory} could not be removed: {trouble.message}"
    return None


def _told(error: BaseException) -> DataGuardianError:
    """Returns a target's error as one of the tree. One that is not is a defect, whose words may hold anything."""
    if isinstance(error, DataGuardianError):
        return error
    return StorageError(f"a defect in the storage's adapter ({type(error).__name__}): please report it")


def _lagging(lag_seconds: float) -> DataGuardianError:
    return StorageTransientError(
        f"it was left behind: another storage had a part {lag_seconds:g} s before",
        hint="the repair copies what it lacks",
    )


def none_took_it(names: Sequence[str], errors: Sequence[DataGuardianError]) -> DataGuardianError:
    """Returns one error for all targets: of a kind that is worth another try when one of theirs is."""
    chosen = next((error for error in errors if is_transient(error)), errors[0])
    if len(errors) == 1:
        return chosen
    words = "; ".join(f"{name}: {error.message}" for name, error in zip(names, errors, strict=True))
    return type(chosen)(f"none of the {len(errors)} storages took the backup: {words}", hint=chosen.hint)


def _all_gone(lines: Sequence[_Line]) -> DataGuardianError:
    gone = [(line.target.name, line.error) for line in lines if line.error is not None]
    return none_took_it([name for name, _ in gone], [error for _, error in gone])
