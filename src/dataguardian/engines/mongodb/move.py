"""Giving a collection another name in its database, with its options, also on servers whose rename forgets them.

MongoDB's own rename changes nothing but the name, in an instant. Servers that only speak its protocol may lose the
validator, the collation or the cap on the way; there the collection is made anew and its documents are copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from dataguardian.domain.errors import TargetInUseError
from dataguardian.engines.mongodb.archive import Documents, Namespace
from dataguardian.engines.mongodb.create import create, create_indexes
from dataguardian.engines.mongodb.load import Loader, document_ends
from dataguardian.engines.mongodb.metadata import Document, Metadata
from dataguardian.engines.mongodb.names import Names
from dataguardian.engines.mongodb.server import NAMESPACE_NOT_FOUND, Link

NAMESPACE_EXISTS = 48
_PROBE = {"validator": {"dataguardian": {"$exists": False}}, "validationAction": "warn"}


@dataclass
class Mover:
    """Moves collections of one server. `database` is where it may try out what a rename does."""

    link: Link
    names: Names
    database: str

    @cached_property
    def keeps_options(self) -> bool:
        before, after = (Namespace(self.database, self.names.new()) for _ in range(2))
        try:
            create(self.link, before, Metadata(options=_PROBE), shown_as=before)
            rename(self.link, before, after)
            return "validator" in options_of(self.link, after)
        finally:
            for name in (before, after):
                drop(self.link, name)

    def move(self, name: Namespace, new_name: Namespace, options: Document, *, drop_target: bool = False) -> None:
        """Raises TargetInUseError when the new name is taken and must not be dropped."""
        if not options or self.keeps_options:
            rename(self.link, name, new_name, drop_target=drop_target)
            return
        if drop_target:
            drop(self.link, new_name)
        elif exists(self.link, new_name):
            raise _taken(new_name)
        self._copy(name, new_name, options)
        drop(self.link, name)

    def _copy(self, name: Namespace, new_name: Namespace, options: Document) -> None:
        metadata = Metadata(options=options, indexes=tuple(self.link.indexes(name)))
        create(self.link, new_name, metadata, shown_as=new_name)
        loader = Loader(self.link, new_name, new_name)
        for batch in self.link.raw_batches(name):
            data = memoryview(batch)
            loader.add(Documents(name, data, document_ends(data)))
        loader.flush()
        create_indexes(self.link, new_name, metadata, shown_as=new_name)


def options_of(link: Link, name: Namespace) -> Document:
    """Returns a collection's options; an empty document when there is no such collection."""
    found = next(link.listed(name.database, {"listCollections": 1, "filter": {"name": name.collection}}), None)
    return dict(found.get("options") or {}) if found else {}


def exists(link: Link, name: Namespace) -> bool:
    command = {"listCollections": 1, "filter": {"name": name.collection}, "nameOnly": True}
    return any(True for _ in link.listed(name.database, command))


def drop(link: Link, name: Namespace) -> None:
    """Drops a collection or view; nothing happens when there is none."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package, loaded when it is needed

    try:
        link.command(name.database, {"drop": name.collection})
    except OperationFailure as error:
        if error.code != NAMESPACE_NOT_FOUND:
            raise


def rename(link: Link, name: Namespace, new_name: Namespace, *, drop_target: bool = False) -> None:
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package, loaded when it is needed

    try:
        link.command("admin", {"renameCollection": str(name), "to": str(new_name), "dropTarget": drop_target})
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise
        raise _taken(new_name) from error


def _taken(name: Namespace) -> TargetInUseError:
    return TargetInUseError(
        f"{name} was made by somebody else during the restore",
        hint="end the programs that work with the database, then restore again",
    )
