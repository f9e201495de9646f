"""The storage on top of rclone's remote control, and what its words mean to it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dataguardian.domain.clock import Clock, SystemClock
from dataguardian.domain.errors import (
    DataGuardianError,
    IntegrityError,
    MissingToolError,
    ObjectMissingError,
    StorageConnectionError,
    StorageDeniedError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
    UsageError,
)
from dataguardian.domain.sizes import MIB
from dataguardian.settings import without_secrets
from dataguardian.storage.base import Data, Storage, StoredObject, checked_path
from dataguardian.storage.rclone.daemon import OLDEST, Daemon, RcloneError, Setup, find_program, version_of
from dataguardian.storage.temporary import TEMPORARY_PREFIX, is_temporary_of, temporary_name

if TYPE_CHECKING:
    from dataguardian.storage.rclone import RcloneConfig

STALE = timedelta(days=1)
SWEEP_SECONDS = 3600.0
BUFFERED_BYTES = 64 * MIB
"""Up to this size rclone takes an object whole before it sends it, so that the remote is told its size."""
SLOWEST_BYTES_PER_SECOND = 1 * MIB
"""How fast a remote has at least to look through an object again (hash, move), beyond `timeout_seconds`."""

# rclone passes the words of some seventy services on. Whatever none of these fits may work next time.
_WORDS: tuple[tuple[type[DataGuardianError], str, str], ...] = (
    (
        StorageUnreachableError,
        (
            r"didn't find section|couldn't find type of fs|unknown remote|no such host|bucket not found|NoSuchBucket"
            r"|empty token found|couldn't decrypt configuration|unable to decrypt configuration|config file.*password"
        ),
        "check the remote: `rclone listremotes`, `rclone lsd REMOTE:`; `rclone config` sets it up",
    ),
    (
        StorageFullError,
        r"no space left|quota|insufficient.?(storage|space)|storage.?full|disk full|\b507\b|EDQUOT|not enough space",
        "free some space there or delete old backups, then run it again",
    ),
    (
        StorageConnectionError,
        r"connection refused|connection reset|broken pipe|i/o timeout|unexpected EOF|network is unreachable",
        "check the network, and that the remote's server runs",
    ),
    (
        StorageDeniedError,
        (
            r"permission denied|access.?denied|forbidden|\b40[13]\b|unauthori[sz]ed|invalid_grant|SignatureDoesNotMatch"
            r"|unable to authenticate|InvalidAccessKeyId|read-only file system|knownhosts|host key|not permitted"
        ),
        "check the remote's credentials and rights: `rclone config reconnect REMOTE:`, `rclone lsd REMOTE:`",
    ),
)
_NO_NEW_BUCKETS = tuple(
    f"RCLONE_{name}"
    for name in ("S3_NO_CHECK_BUCKET", "GCS_NO_CHECK_BUCKET", "OOS_NO_CHECK_BUCKET", "AZUREBLOB_NO_CHECK_CONTAINER")
)
"""A bucket that is not there is a mistake to be told of; rclone would make it."""
_MISSING = re.compile(r"object not found|directory not found|is a directory|not a (regular )?file|not a directory")

_PRUNED = re.compile(r"not found|not exist|no such file", re.IGNORECASE)
_RACES = 20


class RcloneStorage(Storage):
    def __init__(self, config: RcloneConfig, *, clock: Clock | None = None) -> None:
        self._config = config
        self._address = config.describe()
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._remote: _Remote | None = None
        self._swept_at: float | None = None

    def put(self, path: str, data: Data) -> None:
        _checked(path)
        view = memoryview(data).cast("B")
        with self._translated(path) as remote:
            if not remote.shows_partial:
                remote.upload(path, view)
                return
            temporary = temporary_name(path)
            try:
                remote.require_root(self._address)
                remote.upload(temporary, view)
                remote.move(temporary, path, view.nbytes)
            except BaseException as error:
                full = isinstance(error, RcloneError) and remote.is_full(view.nbytes)
                with suppress(Exception):
                    remote.delete(temporary)
                if full:
                    raise RcloneError(f"no space left: {error}", 507) from error
                raise
            self._sweep(remote)

    def get(self, path: str, max_bytes: int) -> bytes:
        _checked(path)
        with self._translated(path) as remote:
            data = remote.download(path, max_bytes)
        if data is None:
            raise IntegrityError(
                f"{_shown(path)} in {self._address} is larger than the {max_bytes} bytes it may have at most",
                path=_shown(path),
            )
        return data

    def stat(self, path: str) -> StoredObject:
        _checked(path)
        with self._translated(path) as remote:
            found = remote.stat(path)
            if found is None or found["IsDir"]:
                raise RcloneError("object not found", 404)
            return StoredObject(path, int(found["Size"]))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        entries = self._entries(_checked(prefix) if prefix else "", filesOnly=True, recurse=True)
        return (StoredObject(entry["Path"], int(entry["Size"])) for entry in entries)

    def folders(self, prefix: str = "") -> Iterator[str]:
        entries = self._entries(_checked(prefix) if prefix else "", dirsOnly=True)
        return (entry["Name"] for entry in entries if not entry["Name"].startswith("."))

    def delete(self, path: str) -> None:
        _checked(path)
        with self._translated(path) as remote:
            try:
                remote.delete(path)
            except RcloneError as error:
                if not _MISSING.search(error.message):
                    raise
                remote.require_root(self._address)
            remote.prune(path)

    def discard(self, directory: str) -> None:
        with self._translated("") as remote:
            for entry in remote.list("", filesOnly=True) if remote.shows_partial else ():
                if is_temporary_of(entry["Path"], directory):
                    remote.delete(entry["Path"])

    def free_space(self) -> int | None:
        with self._translated("") as remote:
            remote.require_root(self._address)
            return remote.free_space()

    def _entries(self, prefix: str, **options: bool) -> Iterator[dict[str, Any]]:
        with self._translated(prefix) as remote:
            try:
                found = remote.list(prefix, **options)
            except RcloneError as error:
                if not _MISSING.search(error.message):
                    raise
                remote.require_root(self._address)
                return
        yield from (entry for entry in found if not entry["Path"].startswith(TEMPORARY_PREFIX))

    def _sweep(self, remote: _Remote) -> None:
        """Removes what killed puts left and is a day old, at most once an hour. rclone sets times by our own clock."""
        now = self._clock.monotonic()
        if self._swept_at is not None and now - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = now
        with suppress(RcloneError, DataGuardianError, ValueError):
            for entry in remote.list("", filesOnly=True, noModTime=False):
                changed_at = datetime.fromisoformat(entry["ModTime"][:19] + "+00:00")
                if entry["Path"].startswith(TEMPORARY_PREFIX) and changed_at < self._clock.now() - STALE:
                    remote.delete(entry["Path"])

    def _reached(self) -> _Remote:
        with self._lock:
            if self._remote is None:
                self._remote = _Remote(self._config)
            return self._remote

    @contextmanager
    def _translated(self, path: str) -> Iterator[_Remote]:
        try:
            yield self._reached()
        except RcloneError as error:
            if self._remote is not None and _MISSING.search(error.message):
                self._remote.require_root(self._address)
            raise _translation(error, path, self._address) from error


class _Remote:
    """The calls, on one folder of a remote. Raises RcloneError and what Daemon raises."""

    def __init__(self, config: RcloneConfig) -> None:
        setup = _setup(config)
        self._daemon = Daemon.of(setup)
        self._timeout_seconds = config.timeout_seconds
        self._joined: bool | None = None
        self._fs = f"{self._exact_name(config.remote)}:{config.path}"
        features = self._daemon.call("operations/fsinfo", fs=self._fs)["Features"]
        if "PartialUploads" not in features:  # `core/version` runs scripts, which inherit the password
            version = version_of(setup.program) or "that is installed"
            raise MissingToolError(f"rclone {version} is too old", hint="install {}.{} or newer".format(*OLDEST))
        self.shows_partial = bool(features["PartialUploads"])
        self._has_folders = bool(features["CanHaveEmptyDirectories"])
        self._has_about = bool(features["About"])
        if self.shows_partial and not (features["Move"] or features["Copy"]):
            raise StorageDeniedError(
                f"{config.describe()} can neither hide an upload before it is complete nor rename it afterwards, "
                "so that a backup there might be torn",
                hint="choose another remote",
            )

    def upload(self, path: str, view: memoryview) -> None:
        folder, _, name = path.rpartition("/")
        config = quote(f'{{"StreamingUploadCutoff": {view.nbytes + 1}}}') if view.nbytes <= BUFFERED_BYTES else "{}"
        boundary = secrets.token_hex(16)
        disposition = f"form-data; name=\"file0\"; filename*=utf-8''{quote(name, safe='')}"
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + view.nbytes + len(tail)),
        }
        target = (
            f"/operations/uploadfile?fs={quote(self._fs, safe='')}&remote={quote(folder, safe='')}&_config={config}"
        )
        seconds = self._patience(view.nbytes)
        with self._daemon.exchange("POST", target, headers, [head, view, tail], seconds=seconds) as response:
            response.read()

    def download(self, path: str, max_bytes: int) -> bytes | None:
        """Returns None, without reading it, when the object is larger."""
        with self._daemon.exchange("GET", f"/[{quote(self._fs)}]/{quote(path)}", {}) as response:
            if response.length is None:
                raise RcloneError("the remote does not tell the object's size", 500)
            return response.read() if response.length <= max_bytes else None

    def stat(self, path: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._daemon.call("operations/stat", fs=self._fs, remote=path)["item"]
        return found

    def list(self, prefix: str, **options: bool) -> list[dict[str, Any]]:
        wanted = {"noModTime": True, "noMimeType": True} | options
        found: list[dict[str, Any]] = self._daemon.call("operations/list", fs=self._fs, remote=prefix, opt=wanted)[
            "list"
        ]
        return found

    def move(self, source: str, target: str, size_bytes: int) -> None:
        """Replaces what is there, at best in one step. Somebody's delete may prune the folder that it is to go to.

        A union keeps what has one name in several places: what is there would stay in the one and hide the new one in
        the other, so that it is removed first.
        """
        for _ in range(0 if self._is_union() else _RACES):
            try:
                return self._move(source, target, size_bytes, NoCheckDest=True)
            except RcloneError as error:
                if not _PRUNED.search(error.message):
                    break
        return self._move(source, target, size_bytes, IgnoreTimes=True)

    def _move(self, source: str, target: str, size_bytes: int, **config: bool) -> None:
        names = {"srcFs": self._fs, "srcRemote": source, "dstFs": self._fs, "dstRemote": target}
        self._daemon.call("operations/movefile", seconds=self._patience(size_bytes), **names, _config=config)

    def delete(self, path: str) -> None:
        self._daemon.call("operations/deletefile", fs=self._fs, remote=path)

    def prune(self, path: str) -> None:
        """Removes the folders that are empty now; rclone refuses to remove others."""
        folder = path
        with suppress(RcloneError):
            while self._has_folders and "/" in folder:
                folder = folder.rpartition("/")[0]
                self._daemon.call("operations/rmdir", fs=self._fs, remote=folder)

    def free_space(self) -> int | None:
        if not self._has_about:
            return None
        free = self._daemon.call("operations/about", fs=self._fs).get("free")
        return None if free is None else int(free)

    def is_full(self, size_bytes: int) -> bool:
        """Tells whether a put failed for want of room: many remotes only say that it failed."""
        with suppress(RcloneError, DataGuardianError):
            free = self.free_space()
            return free is not None and free < size_bytes
        return False

    def require_root(self, address: str) -> None:
        """Raises StorageUnreachableError when the root is missing. Where folders are only parts of names, none is."""
        if not self._has_folders:
            return
        try:
            self.list("", dirsOnly=True)
        except RcloneError as error:
            if not _MISSING.search(error.message):
                raise
            raise StorageUnreachableError(
                f"the storage {address} does not exist", hint=f"make it: rclone mkdir '{self._fs}'"
            ) from error

    def _patience(self, size_bytes: int) -> float:
        return 2 * self._timeout_seconds + size_bytes / SLOWEST_BYTES_PER_SECOND

    def _exact_name(self, name: str) -> str:
        """Returns the remote's name as it is configured: in an address, hosts lose their case."""
        known = self._names()
        alike = [other for other in known if other.lower() == name.lower()]
        return alike[0] if name not in known and len(alike) == 1 else name

    def _names(self) -> Sequence[str]:
        names: Sequence[str] | None = self._daemon.call("config/listremotes").get("remotes")
        return names or ()

    def _is_union(self) -> bool:
        """Tells whether the remote is a union, or lies on one: an alias, a crypt, … of it. Asked once."""
        if self._joined is None:
            self._joined = self._lies_on_union(self._fs.partition(":")[0], set())
        return self._joined

    def _lies_on_union(self, name: str, seen: set[str]) -> bool:
        seen.add(name)
        texts = [self._option(name, option) for option in ("type", "remote", "upstreams")]
        if texts[0] == "union" or any(":union" in text for text in texts):
            return True
        below = {other for other in self._names() if any(f"{other}:" in text for text in texts[1:])}
        return any(self._lies_on_union(other, seen) for other in sorted(below - seen))

    def _option(self, name: str, option: str) -> str:
        """Returns an option of a remote, from rclone's configuration or from where it is defined by variables."""
        variable = f"RCLONE_CONFIG_{name}_{option}".upper().replace("-", "_")
        return os.environ.get(variable) or str(self._daemon.call("config/get", name=name).get(option, ""))


def _setup(config: RcloneConfig) -> Setup:
    environment = {key: value for key, value in without_secrets(os.environ).items() if key != "DATAGUARDIAN_PASSWORD"}
    for variable in _NO_NEW_BUCKETS:
        environment.setdefault(variable, "true")
    if config.config_file:
        environment["RCLONE_CONFIG"] = config.config_file
    if config.config_password:
        environment["RCLONE_CONFIG_PASS"] = config.config_password.get_secret_value()
    return Setup(find_program(), tuple(sorted(environment.items())), config.timeout_seconds)


def _translation(error: RcloneError, path: str, address: str) -> DataGuardianError:
    where = f"{_shown(path)} in {address}" if path else address
    if _MISSING.search(error.message):
        return ObjectMissingError(f"{where} does not exist", path=_shown(path))
    for kind, words, hint in _WORDS:
        if re.search(words, error.message, re.IGNORECASE):
            return kind(f"{where}: {error.message}", hint=hint, path=_shown(path))
    return StorageTransientError(f"{where}: {error.message}", hint="check the remote: `rclone lsd REMOTE:`")


def _checked(path: str) -> str:
    if any(segment.startswith(TEMPORARY_PREFIX) for segment in checked_path(path).split("/")):
        raise UsageError(f"{path!r}: names that begin with {TEMPORARY_PREFIX} are kept for temporary files")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{path!a} is not UTF-8, which rclone's names are") from error
    return path


def _shown(path: str) -> str:
    return path if path.isprintable() else ascii(path)
