"""The contract of `engines/base.py` as tests. An engine brings a fixture, in `tests/engines/fixture_<engine>.py`:

class OursFixture(EngineFixture):
    type = "ours"
    …

FIXTURES = [OursFixture]

`test_conformance.py` finds it and holds the engine to everything. A fixture is made once per test process, and lazily:
its server starts in `__init__` (or later) and ends in `close`. All sources and targets are named by addresses, as on
the command line, with the password in them.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import tests.engines
from dataguardian.domain.errors import DamagedPartError
from dataguardian.domain.urls import parse_url
from dataguardian.engines.base import DumpOptions, Engine, RestoreOptions
from dataguardian.engines.registry import ENGINES, build_engine, engine_config
from tests.servers import free_port

CHUNK_BYTES = 256 * 1024


class EngineFixture(ABC):
    """One engine's real server (or folder), and ways to bring it into the states that the contract speaks of."""

    type: ClassVar[str]
    is_server: ClassVar[bool] = True
    """False for what is a local path: no passwords, no ports, nothing to kill."""
    is_consistent: ClassVar[bool] = True
    """False where a dump cannot be one point in time while others write (a folder of files)."""
    repeats: ClassVar[str | None] = None
    """The type of another fixture with the same code and server: then the stories of REPEATED suffice for this one."""
    replaces_at_end: ClassVar[bool] = True
    """False where a restore with drop_existing cannot leave the old content alone when the server dies half-way."""

    @abstractmethod
    def close(self) -> None:
        """Ends what was started, by its process id, and removes its folders."""

    # Sources and targets. Every call makes a new one, with a name that no other test uses.

    @abstractmethod
    def sample(self) -> str:
        """Returns the address of a source with one of everything that the engine claims to carry over."""

    @abstractmethod
    def large(self) -> str:
        """Returns the address of a source of at least 20 MB, whose dump can be stopped in its middle.

        It outlasts a `kill`, and may be the same one at every call: no story changes it.
        """

    @abstractmethod
    def empty(self) -> str:
        """Returns the address of a source that exists and holds nothing."""

    @abstractmethod
    def target(self) -> str:
        """Returns the address of something that does not exist yet, or is empty, where a restore may go."""

    @abstractmethod
    def odd(self) -> Sequence[str]:
        """Returns addresses of small sources with special characters in every name: database, user, password,
        tables, columns; quotes, spaces, a leading dash, slashes, percent signs, emoji, other scripts.
        """

    @abstractmethod
    def missing(self) -> str:
        """Returns an address, with a right password, of something that is not there."""

    # Looking, by other means than the engine's.

    @abstractmethod
    def content(self, address: str) -> Mapping[str, Any]:
        """Returns what is there: schema and rows as a stock tool or a plain driver shows them, comparable by `==`.

        The database's own name must not be in it. Equal for a source and its restored copy, and only then.
        """

    @abstractmethod
    def names(self) -> set[str]:
        """Returns everything that stands beside targets: databases, roles, files. A failed restore adds nothing."""

    # Writing while a dump runs. Needed where `is_consistent`.

    def ledger(self) -> str:
        """Returns the address of a source for `transfer`: at least 10 MB, so that a dump takes a moment. It outlasts a
        `kill`, also one in the next instant.
        """
        raise NotImplementedError

    def transfer(self, address: str) -> AbstractContextManager[Callable[[], None]]:
        """Gives a call that changes two places of the ledger in one transaction, over a connection that stays."""
        raise NotImplementedError

    def is_balanced(self, address: str) -> bool:
        """Tells whether every transfer is there wholly or not at all."""
        raise NotImplementedError

    # Servers only.

    def kill(self) -> None:
        """Kills the server (SIGKILL, by process id) and returns when it is dead."""
        raise NotImplementedError

    def restart(self) -> None:
        """Starts the killed server again, on the same port and data, and returns when it answers."""
        raise NotImplementedError

    def wrong_passwords(self) -> Sequence[str]:
        """Returns addresses that the server refuses: a wrong password, none, a user that is not there."""
        raise NotImplementedError

    def reader(self, address: str) -> str:
        """Returns the address of the same source for a user with exactly the privileges that docs/engines.md asks for
        a dump: it cannot write.
        """
        raise NotImplementedError

    def unprivileged(self) -> Sequence[tuple[str, str]]:
        """Returns (address, word) pairs: a user who lacks one of these privileges, and what `check` must name."""
        raise NotImplementedError

    def whole(self, address: str) -> str:
        """Returns the address of the whole server that has this source, for the same user."""
        return re.sub(r"^([a-z]+://[^/?]*)(?:/[^?]*)?", r"\1/", address)

    def by_ssh(self, address: str, tunnel: str, key_file: str) -> str:
        """Returns the address of the same source through an SSH tunnel."""
        mark = "&" if "?" in address else "?"
        return f"{address}{mark}ssh_tunnel={tunnel}&ssh_key={key_file}"


def fixtures() -> dict[str, type[EngineFixture]]:
    """Returns the fixture of every engine that has one, by type."""
    found: dict[str, type[EngineFixture]] = {}
    for info in pkgutil.iter_modules(tests.engines.__path__):
        if info.name.startswith("fixture_"):
            module = importlib.import_module(f"tests.engines.{info.name}")
            found |= {fixture.type: fixture for fixture in module.FIXTURES}
    return found


def engine_at(address: str) -> Engine:
    return build_engine(engine_config(parse_url(address)))


@dataclass
class Kept:
    """A stream as a pipeline would have stored it. Its chunks end as damaged ones do after `damaged_after` of them;
    `on_chunk` is called before each, with its number.
    """

    name: str
    kind: str
    data: bytes
    metadata: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    damaged_after: int | None = None
    on_chunk: Callable[[int], None] = lambda number: None

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def chunks(self) -> Iterator[bytes]:
        for number, offset in enumerate(range(0, len(self.data), CHUNK_BYTES)):
            self.on_chunk(number)
            if number == self.damaged_after:
                raise DamagedPartError("a part was damaged")
            yield self.data[offset : offset + CHUNK_BYTES]


def dump(
    address: str, options: DumpOptions | None = None, *, on_chunk: Callable[[], None] = lambda: None
) -> list[Kept]:
    """Dumps as the pipeline does; `on_chunk` is called after every piece that came."""
    kept = []
    buffer = memoryview(bytearray(CHUNK_BYTES))
    for context in engine_at(address).dump(options or DumpOptions()):
        with context as stream:
            data = bytearray()
            while count := stream.readinto(buffer):
                data += buffer[:count]
                on_chunk()
            stream.finish()
            kept.append(Kept(stream.name, stream.kind, bytes(data), stream.metadata, list(stream.warnings)))
    return kept


def restore(address: str, streams: list[Kept], *, drop_existing: bool = False) -> list[str]:
    """Restores as the pipeline does; returns the engine's warnings."""
    target = engine_at(address)
    options = RestoreOptions(drop_existing=drop_existing)
    target.prepare_restore([(stream.name, stream.kind) for stream in streams], options)
    target.restore(iter(streams), options)
    return target.warnings


def validate(kind: str, stream: Kept) -> None:
    """Has the engine of type `kind` read a whole stream; raises IntegrityError."""
    ENGINES.by_type(kind).validate(stream.kind, stream.metadata, stream.chunks())


def counted(address: str) -> dict[str, int]:
    """The engine's own inventory, without the database's name at the head of every item."""
    database = getattr(engine_config(parse_url(address)), "database", None)
    items = engine_at(address).inventory().items
    return {key.removeprefix(f"{database}."): count for key, count in items.items()}


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield int(listener.getsockname()[1])


def moved(address: str, port: int) -> str:
    """Returns the same address at another port of this machine."""
    url = parse_url(address)
    assert url.port is not None
    return address.replace(f":{url.port}/", f":{port}/", 1)


def closed_port() -> int:
    return free_port()


def living_children() -> set[int]:
    """Returns this process's children that have not ended, zombies left out."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except OSError:
            continue
        found |= {int(pid) for pid in pids if not _is_zombie(int(pid))}
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextmanager
def watched_command_lines() -> Iterator[set[bytes]]:
    """Gathers every command line that any process of this machine has that begins while the block runs."""
    seen: set[bytes] = set()
    stop = threading.Event()
    before = set(os.listdir("/proc"))  # noqa: PTH208 -- see below

    def watch() -> None:
        while not stop.wait(0.03):
            for name in os.listdir("/proc"):  # noqa: PTH208 -- as quick as can be
                if name.isdigit() and name not in before:
                    try:
                        seen.add(Path(f"/proc/{name}/cmdline").read_bytes())
                    except OSError:
                        continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
