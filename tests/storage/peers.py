"""The real peers that storages are held against: one `fixture_<type>.py` per registered storage.

A fixture module has a `PEERS`, which names at least one way to get an empty storage of its type from a real server:

    class OurHarness(Harness): ...

    @contextmanager
    def on_sshd(folder: Path) -> Iterator[Harness]:
        server = shared(sshd)                       # a context manager, entered once per test process, on first use
        yield OurHarness(server, fresh_root(folder))

    PEERS: Peers = {"sshd": on_sshd}

`test_conformance.py` runs the whole suite on every one of them. `folder` is the test's own temporary folder.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TypeVar, cast

import tests.storage
from tests.storage.conformance import Harness

T = TypeVar("T")
Peer = Callable[[Path], AbstractContextManager[Harness]]
Peers = Mapping[str, Peer]

PREFIX = "fixture_"
_running: dict[Callable[[], AbstractContextManager[object]], object] = {}
_stack = ExitStack()


def shared(start: Callable[[], AbstractContextManager[T]]) -> T:
    """Returns what `start` yields; it is entered on the first call and left when the test session ends."""
    if start not in _running:
        _running[start] = _stack.enter_context(start())
    return cast(T, _running[start])


def end_shared() -> None:
    _running.clear()
    _stack.close()


def peers_by_type() -> dict[str, Peers]:
    modules = [module.name for module in pkgutil.iter_modules(tests.storage.__path__) if module.name.startswith(PREFIX)]
    return {
        name.removeprefix(PREFIX): importlib.import_module(f"tests.storage.{name}").PEERS for name in sorted(modules)
    }


def all_peers() -> dict[str, Peer]:
    """Every peer by `type-peer`."""
    return {f"{type_}-{name}": peer for type_, peers in peers_by_type().items() for name, peer in peers.items()}
