"""Microsoft's own way: `sqlpackage` writes a database into a .bacpac file and reads it back.

It writes files and no streams, so the file is staged, for this user only, and removed in every case. Its arguments
travel in a response file: the password among them must not stand in a command line.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from dataguardian.domain.errors import (
    DiskFullError,
    DumpFailedError,
    EngineError,
    IntegrityError,
    MissingToolError,
    NotAllowedError,
    RestoreFailedError,
)
from dataguardian.engines.network import password_of, reached
from dataguardian.engines.processes import ChildProcess
from dataguardian.engines.sqlserver.config import SqlServerConfig
from dataguardian.engines.tools import ToolSet, find_sets
from dataguardian.engines.tools import install_command as manager_command
from dataguardian.interruption import unbroken
from dataguardian.settings import Settings

STREAM_KIND = "bacpac"
PROGRAM = "sqlpackage"
_DOTNET_PACKAGES = {"": "dotnet-sdk-8.0", "apk": "dotnet8-sdk", "pacman": "dotnet-sdk", "brew": "dotnet"}
_DOTNET_INSTALL = "dotnet tool install -g microsoft.sqlpackage"
NOT_CONSISTENT = (
    "sqlpackage reads table after table: a backup that was taken while others wrote is not one point in time "
    "(method=tds is, where snapshot isolation is allowed)"
)
_PATTERNS = ("/opt/sqlpackage", "/root/.dotnet/tools", "/home/*/.dotnet/tools")
_TAIL_BYTES = 2000
_BY_HAND = (
    "cat > db.bacpac; sqlpackage /Action:Import /SourceFile:db.bacpac /TargetServerName:SERVER"
    " /TargetDatabaseName:DATABASE"
)


def find_sqlpackage() -> ToolSet | None:
    """Returns the program where it is installed."""
    return next(find_sets((PROGRAM,), patterns=_PATTERNS), None)


def is_usable(config: SqlServerConfig) -> bool:
    """Tells whether sqlpackage can connect the way that is configured: it knows neither our authorities, nor client
    certificates, nor sockets, nor a server whose name is not that of the tunnel's end.
    """
    plain = not (config.ssl_ca or config.ssl_cert or config.socket)
    verified = config.ssl_mode in ("verify-ca", "verify-full")
    texts = (config.username, password_of(config), config.host)
    return plain and not (verified and config.ssh_tunnel) and not any(_is_odd(text or "") for text in texts)


def _is_odd(value: str) -> bool:
    """A response file has no way to write these that every release agrees on."""
    return any(character in value for character in "\"\r\n'") or value != value.strip()


class BacpacDump:
    """A database's one stream; entering it has the file written, leaving it removes it."""

    kind = STREAM_KIND

    def __init__(self, config: SqlServerConfig, name: str, program: ToolSet) -> None:
        self.name = name
        self.size_hint_bytes: int | None = None
        self.restore_by_hand = [_BY_HAND]
        self.metadata: dict[str, Any] = {"method": PROGRAM, "client_version": program.version}
        self.warnings = [NOT_CONSISTENT]
        self._config, self._program = config, program
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = stack.enter_context(staging_folder())
            path = folder / "database.bacpac"
            arguments = ["/Action:Export", f"/TargetFile:{path}", f"/SourceDatabaseName:{self.name}"]
            run_sqlpackage(self._config, self._program, folder, arguments, side="Source", error=DumpFailedError)
            if not path.exists():
                raise DumpFailedError(f"database {self.name!r}: sqlpackage ended well and wrote nothing")
            check_bacpac(path, DumpFailedError)
            self._file = stack.enter_context(path.open("rb", buffering=0))
            self.size_hint_bytes = path.stat().st_size
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer) or 0

    def finish(self) -> None:
        if self._file.tell() != self.size_hint_bytes:
            raise DumpFailedError(f"database {self.name!r}: its staged file changed while it was read")


def import_bacpac(
    config: SqlServerConfig, database: str, chunks: Iterable[bytes], program: ToolSet | None = None
) -> None:
    """Makes `database`, which must not exist, from a .bacpac. Raises RestoreFailedError and what `chunks` raises."""
    program = program or find_sqlpackage()
    if program is None:
        raise MissingToolError("this backup is a .bacpac, and sqlpackage is not installed", hint=install_command())
    with staging_folder() as folder:
        path = folder / "database.bacpac"
        write_file(path, chunks)
        arguments = ["/Action:Import", f"/SourceFile:{path}", f"/TargetDatabaseName:{database}"]
        run_sqlpackage(config, program, folder, arguments, side="Target", error=RestoreFailedError)


def install_command() -> str:
    """Returns the exact command for this machine; without .NET that comes first."""
    if shutil.which("dotnet"):
        return _DOTNET_INSTALL
    dotnet = manager_command(_DOTNET_PACKAGES, "install the .NET SDK")
    return f"{dotnet} && {_DOTNET_INSTALL} (or without .NET: https://aka.ms/sqlpackage-linux)"


def run_sqlpackage(
    config: SqlServerConfig,
    program: ToolSet,
    folder: Path,
    arguments: list[str],
    *,
    side: str,
    error: type[EngineError],
) -> None:
    """Runs it to its end; raises `error` with its last words."""
    response = folder / "arguments"
    with reached(config) as endpoint:
        mode = config.ssl_mode or "prefer"
        connection = {
            "ServerName": f"tcp:{endpoint.host},{endpoint.port}",
            "User": config.username or "sa",
            "Password": password_of(config) or "",
            "EncryptConnection": str(mode != "disable"),
            "TrustServerCertificate": str(mode not in ("verify-ca", "verify-full")),
        }
        lines = [*arguments, *(f"/{side}{key}:{value}" for key, value in connection.items())]
        if any(_is_odd(line) for line in lines):
            raise error(
                "sqlpackage cannot be given names with quotes, line breaks or blanks at their ends",
                hint="method=tds in the address does without it",
            )
        write_file(response, ("".join(f'"{line}"\n' for line in lines).encode(),))
        with ChildProcess([program.path(PROGRAM), f"@{response}"], stdout=True) as child:
            tail = b""
            buffer = memoryview(bytearray(64 * 1024))
            while count := child.readinto(buffer):
                tail = (tail + bytes(buffer[:count]))[-_TAIL_BYTES:]
            code = child.wait()
            words = child.stderr_text or tail.decode(errors="replace").strip()
    if code != 0:
        secret = password_of(config)
        words = words.replace(secret, "…") if secret else words
        raise error(f"sqlpackage ended with code {code}: {words}", hint="method=tds in the address does without it")


@contextmanager
def staging_folder() -> Iterator[Path]:
    """Gives a folder for this user only, in the staging folder, and removes it with all that is in it."""
    parent = Settings.from_environment().staging_dir
    path: str | None = None
    try:
        try:
            with unbroken:
                path = tempfile.mkdtemp(prefix="dataguardian-", suffix=".mssql", dir=parent)
        except OSError as error:
            raise NotAllowedError(
                f"the staging folder {parent} cannot be written to: {error.strerror}",
                hint="point DATAGUARDIAN_STAGING_DIR at a folder that exists and is yours",
            ) from error
        yield Path(path)
    finally:
        if path is not None:
            with unbroken:
                shutil.rmtree(path, ignore_errors=True)


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes a file that only this user may read; raises DiskFullError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in chunks:
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise DiskFullError(
                    f"the staging folder {path.parent} has no room: {error.strerror}",
                    hint="point DATAGUARDIAN_STAGING_DIR at a folder with more room",
                ) from error


def check_bacpac(path: Path, error: type[EngineError | IntegrityError]) -> None:
    """Reads every member of the file; raises `error` when it is no whole .bacpac."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as failure:
        raise error(f"this is not a sound .bacpac file: {failure}") from failure
    if damaged is not None or not {"model.xml", "Origin.xml"} <= names:
        raise error(f"this is not a sound .bacpac file: {damaged or 'its model is missing'}")


def validate_bacpac(chunks: Iterable[bytes]) -> None:
    """Stages a .bacpac and reads all of it; raises IntegrityError."""
    with staging_folder() as folder:
        path = folder / "database.bacpac"
        write_file(path, chunks)
        check_bacpac(path, IntegrityError)
