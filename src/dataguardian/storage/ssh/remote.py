"""The files of an SFTP storage: what one session does for each call of the contract.

Nothing below the root is reached through a symbolic link, as far as looking at each folder on the way can tell: SFTP
cannot hold a folder open, so that somebody with an account on the server could still swap one in between.
"""

from __future__ import annotations

import asyncio
import io
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import cast

import asyncssh

from dataguardian.domain.errors import (
    DataGuardianError,
    IntegrityError,
    ObjectMissingError,
    StorageDeniedError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
)
from dataguardian.storage.ssh.link import Session, quietly
from dataguardian.storage.temporary import TEMPORARY, is_temporary_of, temporary_name

STALE_SECONDS = 24 * 3600
SWEEP_SECONDS = 3600

_FOREIGN = "lost+found"
_RACES = 100
"""How often a put makes a folder again that deletes of other objects keep removing."""

Path = Sequence[str]


@dataclass(frozen=True)
class Entry:
    name: str
    size_bytes: int
    mode: int
    changed_at: float

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_object(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


class Remote:
    """The folder `root` of a server. `address` is what error texts call it."""

    def __init__(self, root: str, address: str) -> None:
        self._root = root
        self._address = address
        self._durable: set[str] = set()
        self._left_over: set[str] = set()
        self._swept_at: float | None = None

    async def put(self, session: Session, path: Path, view: memoryview) -> None:
        temporary = self._at((temporary_name("/".join(path)),))
        try:
            await self._write(session, temporary, view)
            await self._move(session, temporary, path)
        except asyncssh.SFTPNoSuchFile:
            await self.require_root(session)
            raise
        except BaseException as error:
            full = isinstance(error, asyncssh.SFTPFailure) and await self._is_full(session, view.nbytes)
            self._left_over.add(temporary)
            await self._prune(session, path[:-1])
            if full:
                raise _no_room(path, self._address) from error
            raise
        finally:
            await self._clean(session)
        await self._sweep(session)

    async def get(self, session: Session, path: Path, max_bytes: int) -> bytes:
        await self.stat(session, path)
        async with self._opened(session, self._at(path), asyncssh.FXF_READ) as file:
            size_bytes = _entry(
                "", await session.ask(file.stat())
            ).size_bytes  # of what was opened, which is not replaced
            if size_bytes > max_bytes:
                raise IntegrityError(
                    f"{shown(path)} in {self._address} is larger than the {max_bytes} bytes it may have at most",
                    path=shown(path),
                )
            return await self._read(session, file, size_bytes) if size_bytes else b""

    async def stat(self, session: Session, path: Path) -> Entry:
        """Raises ObjectMissingError for what is no object, such as a folder."""
        *folders, found = await self._look(session, path)
        _refuse_link(found, self._address)
        if found is None or not found.is_object or not all(folders):
            raise await self._missing(session, path)
        return found

    async def entries(self, session: Session, folder: Path) -> list[Entry]:
        """Returns what lies in a folder and is ours, nothing when the folder is not there (any more)."""
        try:
            found = await self._scan(session, self._at(folder))
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            await self.require_root(session)
            return []
        return [entry for entry in found if not TEMPORARY.fullmatch(entry.name) and (folder or entry.name != _FOREIGN)]

    async def is_folder(self, session: Session, folder: Path) -> bool:
        """Raises StorageDeniedError when a symbolic link lies on the way there."""
        looks = await self._look(session, folder)
        _refuse_link(looks[-1] if looks else None, self._address)
        return all(found is not None and found.is_folder for found in looks)

    async def delete(self, session: Session, path: Path) -> None:
        try:
            await self.stat(session, path)
            await session.ask(session.client.remove(self._at(path)))
        except (ObjectMissingError, asyncssh.SFTPNoSuchFile):
            await self.require_root(session)
        await self._prune(session, path[:-1])

    async def free_space(self, session: Session) -> int | None:
        """Returns None when the server has no statvfs@openssh.com."""
        try:
            disk = await session.ask(session.client.statvfs(self._root))
        except asyncssh.SFTPOpUnsupported:
            return None
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPFailure):
            await self.require_root(session)
            return None
        return disk.bavail * disk.frsize

    async def require_root(self, session: Session) -> None:
        """Raises StorageUnreachableError when the root is not there. It is never created: a mount that is missing must
        not fill the disk beneath it.
        """
        try:
            found = _entry("", await session.ask(session.client.stat(self._root)))
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise StorageUnreachableError(
                f"the storage {self._address} does not exist on the server",
                hint=f"make the folder {self._root!r} there, and let it belong to that user; mount it if it is a mount",
            ) from error
        if not found.is_folder:
            raise StorageDeniedError(f"the storage {self._address} is not a folder", hint="give the address of one")

    async def _is_full(self, session: Session, size_bytes: int) -> bool:
        """Tells whether there was no room for so many bytes: SFTP 3 has one word, "failure", for all that is rare."""
        try:
            disk = await session.ask(session.client.statvfs(self._root))
        except (asyncssh.Error, OSError):
            return False
        return disk.bavail * disk.frsize < size_bytes + disk.frsize or (disk.files > 0 and disk.favail == 0)

    async def _missing(self, session: Session, path: Path) -> DataGuardianError:
        await self.require_root(session)
        return ObjectMissingError(f"{shown(path)} in {self._address} does not exist", path=shown(path))

    async def _look(self, session: Session, path: Path) -> list[Entry | None]:
        """Returns what each name on the way is, None if missing; raises StorageDeniedError for a link in between."""
        places = [path[: depth + 1] for depth in range(len(path))]
        answers = await session.ask_all([session.client.lstat(self._at(place)) for place in places])
        looks: list[Entry | None] = []
        for place, answer in zip(places, answers, strict=True):
            if isinstance(answer, asyncssh.SFTPNoSuchFile | asyncssh.SFTPNoSuchPath):
                looks.append(None)
                continue
            if isinstance(answer, BaseException):
                raise answer
            looks.append(_entry("/".join(place), answer))
            if len(place) < len(path):
                _refuse_link(looks[-1], self._address)
        return looks

    async def _write(self, session: Session, name: str, view: memoryview) -> None:
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        async with self._opened(session, name, flags) as file:

            async def move(offset: int, length: int) -> None:
                await file.write(cast("bytes", view[offset : offset + length]), offset)  # any buffer will do

            await session.in_blocks(view.nbytes, session.client.limits.max_write_len, move)
            await self._sync(session, file)

    async def _read(self, session: Session, file: asyncssh.SFTPClientFile, size_bytes: int) -> bytes:
        """Returns the first `size_bytes` of a file, fewer when it has become shorter."""
        buffer = io.BytesIO()
        buffer.seek(size_bytes - 1)
        buffer.write(b"\0")  # room for all of it at once: `getvalue` then gives the bytes without a copy
        ends = {size_bytes}

        async def move(offset: int, length: int) -> None:
            while length:
                data = cast("bytes", await session.ask(file.read(length, offset)))
                if not data:
                    ends.add(offset)
                    return
                buffer.seek(offset)
                buffer.write(data)
                offset, length = offset + len(data), length - len(data)

        await session.in_blocks(size_bytes, session.client.limits.max_read_len, move)
        buffer.truncate(min(ends))
        return buffer.getvalue()

    @asynccontextmanager
    async def _opened(self, session: Session, name: str, flags: int) -> AsyncIterator[asyncssh.SFTPClientFile]:
        attributes = asyncssh.SFTPAttrs(permissions=0o600) if flags & asyncssh.FXF_CREAT else asyncssh.SFTPAttrs()
        opening = session.client.open(name, flags, attributes, encoding=None, block_size=0)
        file = await session.ask(opening)
        try:
            yield file
        except BaseException:
            await quietly(session.ask(file.close()))
            raise
        await session.ask(file.close())

    async def _sync(self, session: Session, file: asyncssh.SFTPClientFile) -> None:
        """Makes a file durable where the server has fsync@openssh.com; elsewhere it decides itself when that is so."""
        if not session.can_sync:
            return
        try:
            await session.ask(file.fsync())
        except asyncssh.SFTPOpUnsupported:
            session.can_sync = False

    async def _sync_folders(self, session: Session, folders: Path) -> None:
        """Makes the object's name durable, and, once, each folder's own."""
        await self._sync_folder(session, self._at(folders))
        for depth in range(len(folders)):
            name = "/".join(folders[: depth + 1])
            if name not in self._durable:
                await self._sync_folder(session, self._at(folders[:depth]))
                self._durable.add(name)

    async def _sync_folder(self, session: Session, name: str) -> None:
        """OpenSSH lets a folder be opened as a file to be synced; other servers may refuse it."""
        if not session.can_sync:
            return
        try:
            async with self._opened(session, name, asyncssh.FXF_READ) as folder:
                await self._sync(session, folder)
        except asyncssh.SFTPError as error:
            if isinstance(error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection):
                raise

    async def _move(self, session: Session, temporary: str, path: Path) -> None:
        for _ in range(_RACES):
            await self._make_folders(session, path[:-1])
            try:
                await session.ask(session.client.posix_rename(temporary, self._at(path)))
            except asyncssh.SFTPNoSuchFile:
                await self.require_root(session)
                continue
            except asyncssh.SFTPOpUnsupported as error:
                raise _no_rename(self._address) from error
            except asyncssh.SFTPFailure:
                await self._refuse_folder(session, path)
                raise
            await self._sync_folders(session, path[:-1])
            return
        raise StorageTransientError(f"{shown(path)} in {self._address}: its folder is removed again and again")

    async def _make_folders(self, session: Session, folders: Path) -> None:
        for depth, found in enumerate(await self._look(session, folders)):
            place = folders[: depth + 1]
            _refuse_link(found, self._address)
            if found is None:
                self._durable.discard("/".join(place))
                try:
                    await session.ask(session.client.mkdir(self._at(place), asyncssh.SFTPAttrs(permissions=0o700)))
                except (asyncssh.SFTPFailure, asyncssh.SFTPNoSuchFile, asyncssh.SFTPFileAlreadyExists) as error:
                    if isinstance(error, asyncssh.SFTPFailure) and await self._is_full(session, 0):
                        raise
                    return  # somebody else made or removed it: the rename shows, and comes back
            elif not found.is_folder:
                raise StorageDeniedError(
                    f"{shown(place)} in {self._address} is a file where a folder belongs", hint="move it away"
                )

    async def _refuse_folder(self, session: Session, path: Path) -> None:
        found = (await self._look(session, path))[-1]
        if found is not None and found.is_folder:
            raise StorageDeniedError(
                f"{shown(path)} in {self._address} is a folder where the object belongs", hint="move it away"
            )

    async def _prune(self, session: Session, folders: Path) -> None:
        for depth in range(len(folders), 0, -1):
            try:
                await session.ask(session.client.rmdir(self._at(folders[:depth])))
            except asyncssh.SFTPNoSuchFile:
                continue
            except (asyncssh.Error, OSError):
                return

    async def _clean(self, session: Session) -> None:
        """Removes the temporaries of puts that failed, also of those whose connection was lost before they could."""
        for name in list(self._left_over):
            try:
                await session.ask(session.client.remove(name))
            except asyncssh.SFTPNoSuchFile:
                pass
            except (asyncssh.Error, OSError):
                return
            self._left_over.discard(name)

    async def _sweep(self, session: Session) -> None:
        """Removes temporaries of killed puts that are a day old, at most once an hour, by the server's own clock.

        A living put that loses its file fails with a transient error and is repeated: nothing that was stored is ever
        touched.
        """
        clock = asyncio.get_running_loop().time()
        if self._swept_at is not None and clock - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = clock
        await quietly(self._sweep_now(session))

    async def _sweep_now(self, session: Session) -> None:
        temporaries = [entry for entry in await self._scan(session, self._root) if TEMPORARY.fullmatch(entry.name)]
        if not temporaries:
            return
        probe = self._at((temporary_name(""),))
        await self._write(session, probe, memoryview(b""))
        now = _entry("", await session.ask(session.client.lstat(probe))).changed_at
        await session.ask(session.client.remove(probe))
        for entry in temporaries:
            if entry.is_object and entry.changed_at < now - STALE_SECONDS:
                await session.ask(session.client.remove(self._at((entry.name,))))

    async def discard(self, session: Session, directory: str) -> None:
        """Removes the temporaries of killed puts into one backup's directory."""
        for entry in await self._scan(session, self._root):
            if is_temporary_of(entry.name, directory):
                with suppress(asyncssh.SFTPNoSuchFile):
                    await session.ask(session.client.remove(self._at((entry.name,))))

    async def _scan(self, session: Session, name: str) -> list[Entry]:
        found = []
        async for item in session.client.scandir(name):
            session.heard_at = asyncio.get_running_loop().time()
            if item.filename not in (".", ".."):
                found.append(_entry(str(item.filename), item.attrs))
        return found

    def _at(self, path: Path) -> str:
        return "/".join((self._root.rstrip("/"), *path)) if path else self._root


def shown(path: Path) -> str:
    """Returns a path in a form that every terminal and log can take: names need not be UTF-8."""
    text = "/".join(path)
    return text if text.isprintable() else ascii(text)


def _entry(name: str, attributes: asyncssh.SFTPAttrs) -> Entry:
    return Entry(name, attributes.size or 0, attributes.permissions or 0, attributes.mtime or 0)


def _refuse_link(found: Entry | None, address: str) -> None:
    if found is not None and found.is_link:
        raise StorageDeniedError(
            f"{shown((found.name,))} in {address} is a symbolic link, and those are not followed inside a storage",
            hint="make the folder that it leads to the storage",
        )


def _no_room(path: Path, address: str) -> StorageFullError:
    return StorageFullError(
        f"no room on the server: {shown(path)} in {address}",
        hint="free some space there or delete old backups, then run it again",
        path=shown(path),
    )


def _no_rename(address: str) -> StorageDeniedError:
    return StorageDeniedError(
        f"the server of {address} cannot replace a file in one step (it has no posix-rename@openssh.com), "
        "so that a backup there might be torn",
        hint="use OpenSSH's own SFTP server, or reach the folder another way (rclone, a mount)",
    )
