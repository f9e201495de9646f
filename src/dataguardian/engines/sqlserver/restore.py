"""Databases back from their streams: built beside the target, counted, and renamed into its place at the end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dataguardian.domain.errors import (
    DataGuardianError,
    NotAllowedError,
    RestoreFailedError,
    TargetNotEmptyError,
    UsageError,
)
from dataguardian.engines.base import RestoreOptions, RestoreStream
from dataguardian.engines.sqlserver import ghosts
from dataguardian.engines.sqlserver.load import LoadedStep, Loader, make_again
from dataguardian.engines.sqlserver.server import (
    MASTER,
    Server,
    attempt,
    is_babelfish,
    is_in_use,
    is_mighty,
    lacks,
    look,
    quoted,
    text,
)
from dataguardian.engines.sqlserver.session import ServerError, Session
from dataguardian.engines.sqlserver.sqlpackage import STREAM_KIND as BACPAC
from dataguardian.engines.sqlserver.sqlpackage import import_bacpac
from dataguardian.interruption import unbroken, undoing

MAX_NAME = 128
RENAME_TRIES, RENAME_PAUSE_SECONDS = 3, 0.5
DROP_TRIES = 3
"""Another session's work at the same moment (a deadlock, a log-in) must not leave a database behind."""
FORGETFUL = (
    "this server (Babelfish) forgets the texts of functions, procedures and triggers when a database is renamed; they"
    " were made again, but not those that others are built upon: {} work, but a backup of the restored database would"
    " lack them; restore to a new name instead"
)
_USERS_OBJECTS = (
    "SELECT COUNT(*) AS objects FROM sys.objects WHERE is_ms_shipped = 0 AND type IN"
    " ('U', 'V', 'P', 'FN', 'IF', 'TF', 'SN', 'SO')"
)
_SYSTEM_DATABASES = frozenset({"master", "model", "msdb", "tempdb"})


@dataclass(frozen=True)
class Target:
    """A database that a restore is to make. `exists`, and if so whether it `is_empty`."""

    name: str
    exists: bool
    is_empty: bool


def look_at(server: Server, session: Session, name: str) -> Target:
    """Looks at a target from a session elsewhere."""
    if name.casefold() in _SYSTEM_DATABASES:
        raise UsageError(f"{name!r} is the server's own database", hint="give a database of your own")
    if len(name) > MAX_NAME:
        raise UsageError(f"a database's name has at most {MAX_NAME} characters")
    rows = session.query(f"SELECT name FROM sys.databases WHERE name = {text(name)}")  # noqa: S608 -- quoted
    if not rows:
        return Target(name, exists=False, is_empty=True)
    with server.connect(name) as inside:
        found = look(inside, _USERS_OBJECTS)
        if found is None:
            found = inside.query("SELECT COUNT(*) AS objects FROM sys.tables")
    return Target(str(rows[0]["name"]), exists=True, is_empty=not found[0]["objects"])


def expect_leave(server: Server, target: Target, options: RestoreOptions) -> None:
    """Raises TargetNotEmptyError when replacing the target was not asked for."""
    if not target.is_empty and not options.drop_existing:
        raise TargetNotEmptyError(
            f"database {target.name!r} at {server.place} holds something",
            hint="restore to another name, or give --drop-existing (drop_existing) to replace it",
        )


def prepare(server: Server, names: list[str], options: RestoreOptions) -> None:
    """Raises what would stop a restore, before a byte is fetched."""
    with server.connect(MASTER) as session:
        for name in names:
            target = look_at(server, session, name)
            expect_leave(server, target, options)
        if not is_mighty(session) and lacks(session, "NULL, NULL", "CREATE ANY DATABASE", certain="CONNECT SQL"):
            raise NotAllowedError(
                f"this login may not create databases at {server.place}",
                hint="a restore needs the server role dbcreator: ALTER SERVER ROLE dbcreator ADD MEMBER the login",
            )


@dataclass
class _Built:
    """A database under a name of its own, until it is swapped. `direct` is one that has its final name already;
    `aside` is the name that the target has meanwhile, `programs` what a rename makes the server forget.
    """

    name: str
    target: Target
    options: dict[str, Any]
    direct: bool = False
    aside: str = ""
    programs: list[LoadedStep] = field(default_factory=list)


@dataclass
class Restoration:
    """One restore of one or more databases. `warnings` is told what could not be given back."""

    server: Server
    database: str | None
    options: RestoreOptions
    warnings: list[str]
    _built: list[_Built] = field(default_factory=list)

    def run(self, streams: Iterator[RestoreStream]) -> None:
        try:
            for stream in streams:
                self._build(stream)
            self.options.before_swap()
            with unbroken:
                while self._built:
                    self._swap(self._built[0])
        except BaseException as error:
            with undoing():
                self._undo(error)
            raise

    def _build(self, stream: RestoreStream) -> None:
        name = self.database or stream.name
        with self.server.connect(MASTER, error=RestoreFailedError) as session:
            target = look_at(self.server, session, name)
            expect_leave(self.server, target, self.options)
            if stream.kind == BACPAC:
                self._import(target, stream)
                return
            built = self._create(session, target, stream.metadata)
        with self.server.connect(built.name, error=RestoreFailedError) as session:
            loader = Loader(session, name, self.warnings)
            loader.load(stream.chunks())
            built.programs = loader.programs if is_babelfish(session) and not built.direct else []
        built.options = stream.metadata.get("options") or {}

    def _import(self, target: Target, stream: RestoreStream) -> None:
        built = _Built(beside(target.name, "new"), target, {})
        self._built.append(built)
        import_bacpac(self.server.config, built.name, stream.chunks())

    def _create(self, session: Session, target: Target, metadata: dict[str, Any]) -> _Built:
        """Makes the database; under its final name only where the server cannot rename and nothing is in the way."""
        # A rename makes Babelfish forget, see below.
        if is_babelfish(session) and not target.exists:
            return self._create_directly(session, target, metadata)
        built = _Built(beside(target.name, "new"), target, {})
        self._made(session, built, metadata)
        probe = beside(target.name, "new")
        refusal = rename(self.server, session, built.name, probe)
        if refusal is None:
            built.name = probe
            return built
        if target.exists:
            raise RestoreFailedError(
                f"the server at {self.server.place} cannot rename databases ({refusal.text}), so {target.name!r} cannot"
                " be replaced",
                hint="restore to a name that does not exist yet",
            )
        attempt(session, f"DROP DATABASE {quoted(built.name)}")
        self._built.remove(built)
        return self._create_directly(session, target, metadata)

    def _create_directly(self, session: Session, target: Target, metadata: dict[str, Any]) -> _Built:
        built = _Built(target.name, target, {}, direct=True)
        self._made(session, built, metadata)
        return built

    def _made(self, session: Session, built: _Built, metadata: dict[str, Any]) -> None:
        collation = str(metadata.get("collation") or "")
        self._built.append(built)
        # A collation's name is a word; anything else would be somebody's statement.
        clause = f" COLLATE {collation}" if collation.replace("_", "").isalnum() and collation.isascii() else ""
        with unbroken:  # a server that was left in the middle may make it later
            refusal = attempt(session, f"CREATE DATABASE {quoted(built.name)}{clause}")
            if refusal is not None and clause:
                again = attempt(session, f"CREATE DATABASE {quoted(built.name)}")
                if again is None and _options_of(session, built.name).get("collation_name") != collation:
                    self.warnings.append(
                        f"the database has this server's collation and not {collation}: {refusal.text}"
                    )
                refusal = again
        if refusal is not None:
            self._built.remove(built)
            raise refusal.about(f"database {built.name!r} cannot be made")
        level = (metadata.get("options") or {}).get("compatibility_level")
        if isinstance(level, int) and level != _options_of(session, built.name).get("compatibility_level"):
            self._set(session, built, f"COMPATIBILITY_LEVEL = {level}")
        attempt(session, f"ALTER DATABASE {quoted(built.name)} SET RECOVERY SIMPLE")

    def _swap(self, built: _Built) -> None:
        """Gives the new database the target's name; the old one is there under another until that has worked."""
        name = built.target.name
        with self.server.connect(MASTER, error=RestoreFailedError) as session:
            self._give_options(session, built)
            if not built.direct:
                with self.server.translated(f"database {name!r} at {self.server.place}", RestoreFailedError):
                    self._take_name(session, built)
            self._built.remove(built)
            self._remember(built)
            if built.aside and (trouble := self._drop(session, built.aside)):
                self.warnings.append(trouble)

    def _remember(self, built: _Built) -> None:
        if not built.programs:
            return
        try:
            with self.server.connect(built.target.name) as session:
                left = make_again(session, built.programs)
        except DataGuardianError:
            left = [program.name for program in built.programs]
        if left:
            self.warnings.append(FORGETFUL.format(", ".join(left)))

    def _take_name(self, session: Session, built: _Built) -> None:
        name = built.target.name
        if built.target.exists:
            built.aside = beside(name, "old")
            if (refusal := rename(self.server, session, name, built.aside)) is not None:
                raise refusal.about(f"it cannot be renamed to {built.aside!r}")
        if (refusal := rename(self.server, session, built.name, name)) is not None:
            raise refusal.about(f"{built.name!r} cannot be given that name")

    def _give_options(self, session: Session, built: _Built) -> None:
        """Gives the database the source's settings, as far as it does not have them already."""
        wanted, now = built.options, _options_of(session, built.name)
        model = str(wanted.get("recovery_model_desc") or "")
        if model in ("FULL", "BULK_LOGGED") and model != now.get("recovery_model_desc"):
            self._set(session, built, f"RECOVERY {model}")
        if wanted.get("snapshot_isolation_state") == 1 != now.get("snapshot_isolation_state"):
            self._set(session, built, "ALLOW_SNAPSHOT_ISOLATION ON")
        if wanted.get("is_read_committed_snapshot_on") and not now.get("is_read_committed_snapshot_on"):
            self._set(session, built, "READ_COMMITTED_SNAPSHOT ON WITH ROLLBACK IMMEDIATE")

    def _set(self, session: Session, built: _Built, setting: str) -> None:
        if (refusal := attempt(session, f"ALTER DATABASE {quoted(built.name)} SET {setting}")) is not None:
            warning = f"the database's setting {setting} could not be given back: {refusal.text}"
            self.warnings += [warning] * (warning not in self.warnings)

    def _drop(self, session: Session, name: str) -> str | None:
        """Returns what is to be said of a database that could not be removed."""
        said = ""
        for number in range(DROP_TRIES):
            if number and not _options_of(session, name):
                return None
            ghosts.lay(self.server, session, name, unseen=number > 0)
            attempt(session, f"ALTER DATABASE {quoted(name)} SET SINGLE_USER WITH ROLLBACK IMMEDIATE")
            if (refusal := attempt(session, f"DROP DATABASE {quoted(name)}")) is None:
                return None
            said = refusal.text
        return f"database {name!r} could not be removed: {said}; drop it by hand"

    def _undo(self, error: BaseException) -> None:
        """Removes what was built and not yet swapped. What cannot be removed (a server that is gone) is told with the
        error.
        """
        for built in self._built:
            try:
                with unbroken, self.server.connect(MASTER) as session:
                    self._give_name_back(session, built, error)
                    if trouble := self._drop(session, built.name):
                        error.add_note(trouble)
            except DataGuardianError as trouble:
                error.add_note(f"database {built.name!r} could not be removed: {trouble.message}; drop it by hand")
                if built.aside:
                    error.add_note(f"if database {built.target.name!r} is not there, its name is {built.aside!r}")

    def _give_name_back(self, session: Session, built: _Built, error: BaseException) -> None:
        if not built.aside or not _options_of(session, built.aside):
            return
        refusal = rename(self.server, session, built.aside, built.target.name)
        if refusal is not None:
            error.add_note(
                f"database {built.target.name!r} is there as {built.aside!r} and could not be given its name back:"
                f" {refusal.text}; rename it by hand"
            )


def _options_of(session: Session, name: str) -> dict[str, Any]:
    rows = look(session, f"SELECT * FROM sys.databases WHERE name = {text(name)}")  # noqa: S608 -- quoted
    return rows[0] if rows else {}


def beside(name: str, what: str) -> str:
    """Returns a name that nobody has, and that says whose it is."""
    return f"{name[: MAX_NAME - 24]}_dg{what}_{secrets.token_hex(6)}"


def rename(server: Server, session: Session, name: str, new_name: str) -> ServerError | None:
    """Renames a database, its sessions ended; returns what the server said against it. Sessions that are on their way
    out, or that the server does not end for us, are waited for.
    """
    ghosts.lay(server, session, name)
    refusal = _renamed(session, name, new_name)
    for _ in range(RENAME_TRIES):
        if refusal is None or not is_in_use(refusal):
            break
        time.sleep(RENAME_PAUSE_SECONDS)
        ghosts.lay(server, session, name, unseen=True)
        refusal = _renamed(session, name, new_name)
    return refusal


def _renamed(session: Session, name: str, new_name: str) -> ServerError | None:
    attempt(session, f"ALTER DATABASE {quoted(name)} SET SINGLE_USER WITH ROLLBACK IMMEDIATE")
    refusal = attempt(session, f"ALTER DATABASE {quoted(name)} MODIFY NAME = {quoted(new_name)}")
    is_unknown = refusal is not None and not is_in_use(refusal)
    if is_unknown and attempt(session, f"EXEC sp_renamedb {text(name)}, {text(new_name)}") is None:
        refusal = None
    attempt(session, f"ALTER DATABASE {quoted(name if refusal else new_name)} SET MULTI_USER")
    return refusal
