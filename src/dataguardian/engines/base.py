"""What an engine owes to the pipeline.

An engine turns a datasource into named streams of bytes and back. It knows nothing of parts, compression, storages or
manifests. It is synchronous and is used from one thread (the main one), which also spawns its children.

Obligations, held by the conformance suite:

* `dump` is consistent: one stream is one point in time of its source.
* A stream that ends without an error **is complete**. Every exit code that does not mean "complete" makes `finish`
  raise, whatever the child had written by then; so does content that fails the engine's own check.
* Leaving a stream's context early ends its children (TERM, closed pipes, KILL after a limit) and removes what it
  staged.
* `restore` never touches what the target held before the last byte of the last stream was verified; then it calls
  `before_swap` and swaps, atomically where the system can. An error, at any moment, leaves the target as it was, and
  nothing else behind. After `before_swap` no stop request interrupts it.
* What the user should know of a restore that ended well is in `warnings`.
* No secret reaches an argv, a log, an error text, a warning or `metadata`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

from dataguardian.domain.errors import NotFoundError, UsageError
from dataguardian.registry import Adapter, AdapterConfig

_SHOWN_NAMES = 20

CheckStatus = Literal["ok", "timeout", "auth_failed", "unreachable", "error"]


class EngineConfig(AdapterConfig):
    """Base of every engine's configuration: the fields of SPEC M2."""

    @abstractmethod
    def default_name(self) -> str:
        """Returns the backup's name when none is given: the database's or the folder's. Valid Unicode."""


@dataclass(frozen=True)
class ToolVersion:
    """A client program that took part, as the manifest records it."""

    name: str
    version: str


@dataclass(frozen=True)
class DumpOptions:
    """What to dump. Patterns are gitignore-like and only mean something to engines that say so.

    `streams` are databases of a whole server, by their names as they are; () is all of them.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()


def _swap_at_will() -> None:
    """For callers that would not stop a restore at its last moment."""


@dataclass(frozen=True)
class RestoreOptions:
    """How to restore. `drop_existing` allows to replace what the target holds, atomically, at the end."""

    drop_existing: bool = False
    before_swap: Callable[[], None] = _swap_at_will
    """Called once, when everything lies restored beside the target and only the swap is missing. It raises to prevent
    the swap; when it returns, the restore is beyond recall.
    """


@dataclass(frozen=True)
class ProbeResult:
    """Outcome of `check`: `metadata` is small and for people (version, size_bytes, connections)."""

    status: CheckStatus
    message: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inventory:
    """What a source holds, for comparing two of them: `items` maps a name (table, file) to a count or size."""

    items: dict[str, int]


class DumpStream(Protocol):
    """One dump on its way out. Used as a context manager: `with stream: readinto… ; finish()`."""

    name: str
    """As people know it: the database's name, `globals`, the folder's name. Valid Unicode."""
    kind: str
    """Suffix of the stream's folder, [a-z0-9]+: pgdump, sql, sqlite, tar."""
    size_hint_bytes: int | None
    """Roughly how many raw bytes will come, for progress only."""
    restore_by_hand: list[str]
    """Shell commands with stock tools that read the raw stream from standard input, in the order to try."""

    def readinto(self, buffer: memoryview) -> int:
        """Fills the beginning of `buffer`; returns how many bytes, 0 only at the end of the stream."""

    def finish(self) -> None:
        """Called once after readinto returned 0: raises DumpFailedError unless the stream is complete and sound."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What restore needs to know beside the bytes (encoding, owner, mode); read after `finish`. Plain JSON."""

    @property
    def warnings(self) -> list[str]:
        """What the user should know although the stream is complete; read after `finish`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None:
        """Ends children and removes staged files, whether the stream was finished or not."""


class StoredStream(Protocol):
    """One dump as the manifest describes it, before a byte of it is fetched."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def metadata(self) -> dict[str, Any]: ...


class RestoreStream(Protocol):
    """One dump on its way back. `chunks` yields verified bytes only, and raises when the next ones are damaged."""

    name: str
    kind: str
    size_bytes: int
    metadata: dict[str, Any]

    def chunks(self) -> Iterator[bytes]: ...


class Engine(ABC):
    """A datasource that can be dumped and restored. Built from its configuration; opening nothing yet."""

    server_version: str = ""
    """Version of the source, known after `dump` began; '' where there is no server."""

    @property
    def local_path(self) -> str | None:
        """The absolute local path of what is dumped and restored; None for a server."""
        return None

    @property
    def has_databases(self) -> bool:
        """Tells whether this is a whole server, of whose databases `DumpOptions.streams` may name some.

        An engine that says so begins `dump` with `named_databases`. Only the configuration decides.
        """
        return False

    def reads(self, path: str, options: DumpOptions) -> bool:  # noqa: ARG002 -- for engines that know patterns
        """Tells whether a dump would read the file at `path`, relative to `local_path`, which need not exist yet."""
        return True

    @abstractmethod
    def check(self) -> ProbeResult:
        """Tells whether the source answers, within a time limit; never raises for what it finds."""

    @abstractmethod
    def dump(self, options: DumpOptions) -> Iterator[AbstractContextManager[DumpStream]]:
        """Yields the source's streams one after the other; the next is asked for when the last one is closed.

        Raises AccessError when the source cannot be opened, MissingToolError, or DumpFailedError.
        """

    @abstractmethod
    def prepare_restore(self, streams: Iterable[tuple[str, str]], options: RestoreOptions) -> None:
        """Checks, before a byte is fetched, that (name, kind) streams can be restored here.

        Tools are installed, the target answers, is empty or may be dropped, is not in use. Raises UsageError,
        AccessError or MissingToolError.
        """

    def cautions(self, streams: Sequence[StoredStream]) -> list[str]:  # noqa: ARG002 -- for engines that know releases
        """Returns what the user should know before these streams are restored here; asked after `prepare_restore`."""
        return []

    @abstractmethod
    def restore(self, streams: Iterator[RestoreStream], options: RestoreOptions) -> None:
        """Restores beside the target while pulling `streams`; when the iterator is exhausted, swaps.

        Every stream is read to its end before the next one is asked for. Raises RestoreFailedError or DiskFullError,
        and passes on whatever `streams` raises, after having undone everything.
        """

    @property
    def warnings(self) -> list[str]:
        """What the user should know although `restore` returned: what could not be given back, or not be removed."""
        return []

    @abstractmethod
    def inventory(self) -> Inventory:
        """Counts what the source holds now (rows per table, bytes per file)."""

    @property
    @abstractmethod
    def tools(self) -> list[ToolVersion]:
        """The client programs that `dump` used, with versions; known after `dump` began."""


def named_databases(names: Iterable[str], options: DumpOptions, place: str) -> list[str]:
    """Returns those of a server's databases that are to be dumped; raises NotFoundError for one that is not there."""
    there = list(names)
    if not options.streams:
        return there
    lacking = [name for name in options.streams if name not in there]
    if lacking:
        shown = ", ".join(map(repr, there[:_SHOWN_NAMES])) + (", …" if len(there) > _SHOWN_NAMES else "")
        raise NotFoundError(
            f"{place} has no database {lacking[0]!r} to back up; it has {shown or 'none'}",
            hint="streams are names of databases as they are, not patterns; upper case counts",
        )
    return [name for name in there if name in options.streams]


def refuse_left_out(options: DumpOptions, chosen: Collection[str]) -> None:
    """Raises UsageError when patterns leave out a database that was named."""
    for name in options.streams:
        if name not in chosen:
            raise UsageError(
                f"database {name!r} is named, and the patterns leave it out",
                hint="take it away from the streams, or change include and exclude",
            )


def refuse_streams(engine: Engine, streams: Sequence[str], source: str) -> None:
    """Raises UsageError when streams are named of a source that has no several databases."""
    if streams and not engine.has_databases:
        raise UsageError(
            f"{source} is one thing and is backed up whole: no streams of it can be named",
            hint="streams are databases of a source that is a whole server: an address without a database",
        )


class StreamValidator(Protocol):
    def __call__(self, kind: str, metadata: dict[str, Any], chunks: Iterator[bytes]) -> None:
        """Reads a whole raw stream without any server; raises IntegrityError when it would not restore."""


@dataclass(frozen=True, kw_only=True)
class EngineAdapter(Adapter[Engine]):
    """What a file in `engines/` exports as `ADAPTER`."""

    validate: StreamValidator
