"""The last step of a restore: what was there is moved aside, what was restored takes its names, and all
of it can be taken back until the last name is given.

MongoDB renames one collection atomically and has no transaction around several: between the first rename and the last,
an instant per collection, readers see old and new ones side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dataguardian.domain.errors import DataGuardianError
from dataguardian.engines.mongodb.archive import Namespace
from dataguardian.engines.mongodb.create import create
from dataguardian.engines.mongodb.load import RawDocument, insert, stored
from dataguardian.engines.mongodb.metadata import Document, Metadata
from dataguardian.engines.mongodb.move import Mover, drop, exists, rename
from dataguardian.engines.mongodb.names import Names
from dataguardian.engines.mongodb.server import Link
from dataguardian.engines.mongodb.target import Target

SCRIPTS = "system.js"


@dataclass(frozen=True)
class Beside:
    """A collection restored under a temporary name, and the options that it was made with."""

    target: Namespace
    temporary: Namespace
    options: Document


@dataclass
class Undo:
    """How to leave a server as it was found: steps, to be taken in reverse, that do nothing where nothing was done."""

    steps: list[tuple[str, Callable[[Link], None]]] = field(default_factory=list)

    def add(self, what: str, step: Callable[[Link], None]) -> None:
        self.steps.append((what, step))

    def drops(self, name: Namespace) -> None:
        self.add(f"removing {name}", lambda link: drop(link, name))

    def forget(self) -> None:
        self.steps.clear()

    def run(self, link: Link, tell: Callable[[str], None]) -> None:
        """Takes every step, and tells of those that failed."""
        from pymongo.errors import ConnectionFailure, PyMongoError  # noqa: PLC0415 -- an optional package

        while self.steps:
            what, step = self.steps[-1]
            try:
                step(link)
            except ConnectionFailure:
                raise
            except (PyMongoError, DataGuardianError) as error:
                tell(f"{what} failed: {error}")
            self.steps.pop()

    def rest(self) -> str:
        """Says what has not been done."""
        left = [what for what, _ in reversed(self.steps)]
        return f"still to be done by hand: {'; '.join(left[:5])} ({len(left)} steps in all)"


@dataclass
class Swap:
    """The swap of all databases of one restore. `undo` gets every step's inverse before the step is taken."""

    link: Link
    names: Names
    undo: Undo
    _aside: dict[Namespace, Namespace] = field(default_factory=dict)
    _movers: dict[str, Mover] = field(default_factory=dict)

    def clear(self, target: Target) -> None:
        """Moves aside what the target holds; views, which cannot be renamed, are dropped and would be made anew."""
        for info in target.views:
            self._drop_view(Namespace(target.name, str(info["name"])), Metadata(options=dict(info["options"])))
        for info in target.collections:
            self._move_aside(Namespace(target.name, str(info["name"])), dict(info.get("options") or {}))

    def put(self, ready: list[Beside], views: Mapping[Namespace, Metadata], scripts: Mapping[str, list[bytes]]) -> None:
        for beside in ready:
            self._move_in(beside)
        for name, metadata in views.items():
            self.undo.drops(name)
            create(self.link, name, metadata, shown_as=name)
        for database, documents in scripts.items():
            self._replace_scripts(Namespace(database, SCRIPTS), documents)

    def remove_replaced(self) -> list[str]:
        """Drops what was moved aside; returns warnings about what could not be dropped."""
        from pymongo.errors import PyMongoError  # noqa: PLC0415 -- an optional package

        warnings = []
        for name, aside in self._aside.items():
            try:
                drop(self.link, aside)
            except PyMongoError as error:
                warnings.append(f"what {name} was before could not be removed, and is named {aside} now: {error}")
        return warnings

    def _drop_view(self, name: Namespace, metadata: Metadata) -> None:
        def make_anew(link: Link) -> None:
            if not exists(link, name):
                create(link, name, metadata, shown_as=name)

        self.undo.add(f"making view {name} again", make_anew)
        drop(self.link, name)

    def _move_aside(self, name: Namespace, options: Document) -> None:
        aside = Namespace(name.database, self.names.old())
        self._aside[name] = aside

        def move_back(link: Link) -> None:
            if exists(link, aside):
                Mover(link, self.names, name.database).move(aside, name, options, drop_target=True)

        self.undo.add(f"renaming {aside} back to {name}", move_back)
        rename(self.link, name, aside)

    def _move_in(self, beside: Beside) -> None:
        """Over a collection that a client made in the moment since the old one moved, but over nothing else."""

        def take_out(link: Link) -> None:
            if not exists(link, beside.temporary):
                drop(link, beside.target)

        self.undo.add(f"removing {beside.target}", take_out)
        mover = self._movers.setdefault(beside.target.database, Mover(self.link, self.names, beside.target.database))
        mover.move(beside.temporary, beside.target, beside.options, drop_target=beside.target in self._aside)

    def _replace_scripts(self, name: Namespace, documents: list[bytes]) -> None:
        """Stored functions live in a collection that cannot be renamed; they are few and small."""
        old = stored(self.link, name)
        self.undo.add(f"giving {name} its functions back", lambda link: _fill_scripts(link, name, old))
        _fill_scripts(self.link, name, documents)


def _fill_scripts(link: Link, name: Namespace, documents: list[bytes]) -> None:
    link.command(name.database, {"delete": name.collection, "deletes": [{"q": {}, "limit": 0}]})
    if documents:
        insert(link, name, [RawDocument(raw) for raw in documents], shown_as=name)
