"""MongoDB on its way out by mongodump, whose archive is read in passing: an exit code says nothing of its bytes."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import ExitStack
from typing import Self
from urllib.parse import unquote

from dataguardian.domain.errors import DumpFailedError, IntegrityError
from dataguardian.engines.mongodb.archive import KIND, ArchiveReader
from dataguardian.engines.mongodb.config import MongoConfig, uri_of
from dataguardian.engines.mongodb.dump import Content, gone_meanwhile, restore_by_hand, size_of
from dataguardian.engines.mongodb.names import PREFIX
from dataguardian.engines.mongodb.server import Link, Server
from dataguardian.engines.mongodb.tlsfiles import private_file, uri_options
from dataguardian.engines.processes import ChildProcess
from dataguardian.engines.tools import ToolSet

_EXIT_SECONDS = 60.0
_SAID_CHARACTERS = 2000
_PROGRESS = re.compile(r"\t(writing .* to |done dumping |\[[#.]+\]|$)")


def mongodump_uri(config: MongoConfig, link: Link, key_path: str | None) -> str:
    """Returns the address with everything that mongodump needs, the password included."""
    options = uri_options(config, key_path, has_tls=link.has_tls)
    return uri_of(config, link.endpoint, link.auth_source, options)


def _tells_auth_version(link: Link) -> bool:
    """Tells whether the server answers what mongodump asks before it reads users; without an answer it would fail."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package, loaded when it is needed

    try:
        return "authSchemaVersion" in link.command("admin", {"getParameter": 1, "authSchemaVersion": 1})
    except OperationFailure:
        return False


class MongodumpDump:
    """`mongodump --archive` of one database. Its address and password reach it by a file that only we can read."""

    kind = KIND

    def __init__(self, link: Link, uri: str, database: str, tools: ToolSet, content: Content) -> None:
        self.name = database
        self.size_hint_bytes = size_of(link, database)
        has_users = content.users and _tells_auth_version(link)
        self.restore_by_hand = restore_by_hand(database, users=has_users)
        self.metadata = {"server_version": link.version, "dumped_with": "mongodump", "tool_version": tools.version}
        self.warnings = list(content.warnings)
        self._argv = [tools.path("mongodump"), "--archive", f"--db={database}"]
        self._argv += [f"--excludeCollectionsWithPrefix={PREFIX}"]
        if has_users:
            self._argv.append("--dumpDbUsersAndRoles")
        elif content.users:
            self.warnings.append("its users and roles are not in the backup: mongodump cannot read them here")
        self._link, self._prelude = link, content.prelude
        self._uri = uri
        self._reader = ArchiveReader()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # JSON is YAML, and quotes whatever a password may hold.
            config = f"uri: {json.dumps(self._uri)}\n".encode()
            path = stack.enter_context(private_file("mongodump.yaml", config))
            argv = [*self._argv[:1], f"--config={path}", *self._argv[1:]]
            self._child = stack.enter_context(ChildProcess(argv, stdout=True))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def readinto(self, buffer: memoryview) -> int:
        count = self._child.readinto(buffer)
        try:
            for _ in self._reader.feed(buffer[:count]):
                pass
        except IntegrityError as error:
            raise self._unsound(error) from error
        return count

    def finish(self) -> None:
        try:
            code = self._child.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DumpFailedError("mongodump closed its output but did not end") from error
        if code != 0:
            raise self._failed(code)
        try:
            self._reader.finish()
        except IntegrityError as error:
            raise self._unsound(error) from error
        # To mongodump such a collection is an empty one, and a success.
        self.warnings += gone_meanwhile(Server(self._link.config), self._link, self._prelude, self.name)

    def _failed(self, code: int) -> DumpFailedError:
        return DumpFailedError(
            f"mongodump of database {self.name!r} ended with exit code {code}: {self._said() or 'no message'}",
            hint="nothing was kept of it; solve what mongodump says, or give dump_with=driver",
            database=self.name,
            exit_code=code,
        )

    def _said(self) -> str:
        """Returns the end of what mongodump said, without its progress, its address and the password in that."""
        text = "\n".join(line for line in self._child.stderr_lines if not _PROGRESS.search(line)).strip()
        text = text.replace(self._uri, "…")
        password = self._uri.partition("@")[0].rpartition("/")[2].partition(":")[2]
        for secret in (password, unquote(password)):
            text = text.replace(secret, "…") if secret else text
        return text[-_SAID_CHARACTERS:]

    def _unsound(self, error: IntegrityError) -> DumpFailedError:
        return DumpFailedError(
            f"mongodump of database {self.name!r} wrote an archive that cannot be read: {error.message}",
            hint="install a newer mongodb-database-tools, or give dump_with=driver",
            database=self.name,
        )
