"""The only place that wires: addresses, passwords and settings become engines and storages."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import SecretStr, ValidationError

from dataguardian.core.backup import DEFAULT_PART_SIZE_BYTES, BackupPlan
from dataguardian.core.catalog import load_manifest, split_backup_path
from dataguardian.domain.artifact import Manifest
from dataguardian.domain.errors import IntegrityError, ObjectMissingError, UnknownSchemeError, UsageError
from dataguardian.domain.urls import Url, parse_url
from dataguardian.engines.base import Engine, EngineConfig, StreamValidator
from dataguardian.engines.registry import ENGINES, build_engine, engine_config
from dataguardian.storage.base import Storage, StorageConfig
from dataguardian.storage.registry import STORAGES, build_storage, storage_config
from dataguardian.storage.retrying import Sleep, wrap

MAX_PASSWORD_BYTES = 64 * 1024

_LOOKS_LIKE_A_PATH = re.compile(r"(\.{0,2}|~)/")
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Datasource:
    """An engine on one source or target. `address` may be shown: it has no password."""

    config: EngineConfig
    engine: Engine
    type: str
    address: str

    def fresh_engine(self) -> Engine:
        """Returns another engine on the same source, for a dump that must begin anew."""
        return build_engine(self.config)


@dataclass(frozen=True)
class StorageLocation:
    """A storage, and the address under which people know it."""

    storage: Storage
    address: str

    def address_of(self, directory: str) -> str:
        """Returns a backup's full address, as `verify` and `restore` take it."""
        url = parse_url(self.address)
        return str(url.with_path(f"{url.path.rstrip('/')}/{directory}"))


@dataclass(frozen=True)
class StoredBackup:
    """A backup by its address; whether it is there shows when it is read."""

    location: StorageLocation
    directory: str

    @property
    def address(self) -> str:
        return self.location.address_of(self.directory)


def open_datasource(address: str, *, password: SecretStr | None = None) -> Datasource:
    """Builds the engine for a SOURCE or TARGET address; opens nothing yet. Raises UsageError or MissingToolError.

    `password` wins over the address's own. Where there is neither, the engine looks in the environment and wherever
    its stock clients look.
    """
    config = _with_password(_engine_config(_parse(address, "datasource")), password)
    return Datasource(config, build_engine(config), ENGINES.adapter_of(config).type, config.describe())


def open_storage(address: str, *, sleep: Sleep = time.sleep, limit_mbps: float | None = None) -> StorageLocation:
    """Builds the storage of an address; opens nothing yet. Raises UsageError or MissingToolError.

    `sleep` pauses between tries and may raise to cancel. `limit_mbps` is a bandwidth limit beside the address's own.
    """
    return _location(_parse(address, "storage"), sleep, limit_mbps)


def open_backup(address: str, *, sleep: Sleep = time.sleep) -> StoredBackup:
    """Splits a BACKUP address into storage and directory; opens nothing yet. Raises UsageError.

    `sleep` as for `open_storage`.
    """
    url = _parse(address, "storage")
    root, directory = split_backup_path(url.path)
    return StoredBackup(_location(url.with_path(root), sleep), directory)


def read_password(path: Path) -> SecretStr:
    """Returns the first line of a file, without its line ending; raises UsageError when there is none."""
    try:
        with path.open("rb") as file:
            line = file.readline(MAX_PASSWORD_BYTES)
        password = line.rstrip(b"\r\n").decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the password file {path} cannot be read: {reason}") from error
    if not password:
        raise UsageError(f"the password file {path} has an empty first line", hint="put the password on its first line")
    return SecretStr(password)


def others_may_read(path: Path) -> bool:
    """Tells whether a password file is open to other users of this machine."""
    return bool(path.stat().st_mode & 0o077)


def plan_backup(
    source: Datasource,
    *,
    name: str | None = None,
    compression: str = "zstd",
    compression_level: int | None = None,
    part_size_bytes: int = DEFAULT_PART_SIZE_BYTES,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    streams: Iterable[str] = (),
) -> BackupPlan:
    """Returns the plan of a new execution; raises UsageError for text that a manifest cannot hold."""
    if name is not None and (not name.strip() or _NO_TEXT.search(name)):
        raise UsageError(
            "a backup's name must be visible text on one line, in UTF-8", hint="give --name, such as --name shop"
        )
    try:
        return BackupPlan(
            execution_id=str(uuid4()),
            name=name if name is not None else source.config.default_name(),
            engine=source.type,
            source=source.address,
            compression=compression,
            compression_level=compression_level,
            part_size_bytes=part_size_bytes,
            include=tuple(include),
            exclude=tuple(exclude),
            streams=tuple(dict.fromkeys(streams)),
        )
    except ValidationError as error:
        raise UsageError("--name, --include, --exclude and --stream must be valid UTF-8 text") from error


def deep_validator(backup: StoredBackup) -> StreamValidator:
    """Returns the check of the engine that made a backup, which needs no server.

    A manifest that is missing or cannot be read gives a validator that is never reached: `run_verify` tells what it is.
    """
    try:
        manifest = load_manifest(backup.location.storage, backup.directory)
    except (IntegrityError, ObjectMissingError):
        return _refuse
    return validator_of(manifest)


def validator_of(manifest: Manifest) -> StreamValidator:
    """Returns the check of the engine that made a backup; raises UsageError when this installation has no such one."""
    return ENGINES.by_type(manifest.engine).validate


def _refuse(kind: str, metadata: dict[str, Any], chunks: Iterator[bytes]) -> None:  # noqa: ARG001 -- a protocol's names
    raise IntegrityError("its engine is unknown, because the manifest is damaged")


def _location(url: Url, sleep: Sleep, limit_mbps: float | None = None) -> StorageLocation:
    config = _storage_config(url)
    return StorageLocation(wrap(build_storage(config), sleep=sleep, limit_mbps=limit_mbps), config.describe())


def _with_password(config: EngineConfig, password: SecretStr | None) -> EngineConfig:
    if password is not None and "password" not in type(config).model_fields:
        raise UsageError(f"{config.describe()} takes no password", hint="leave --password-file out")
    return config if password is None else config.model_copy(update={"password": password})


def _parse(address: str, noun: str) -> Url:
    """Parses an address; a bare path gets a hint with the address that was probably meant."""
    if not _LOOKS_LIKE_A_PATH.match(address):
        return parse_url(address)
    path = os.path.abspath(os.path.expanduser(address))  # noqa: PTH100, PTH111 -- bytes that are not UTF-8 stay as they are
    scheme = "file" if noun != "datasource" else "files" if os.path.isdir(path) else "sqlite"  # noqa: PTH112 -- as above
    raise UsageError(
        f"{address} is a path, and an address is needed", hint=f"did you mean {Url(scheme=scheme, path=path)} ?"
    )


def _engine_config(url: Url) -> EngineConfig:
    try:
        return engine_config(url)
    except UnknownSchemeError as error:
        if any(url.scheme in adapter.schemes for adapter in STORAGES.adapters.values()):
            error.hint = f"{url.scheme}:// is the address of a storage; a source or target is needed, {error.hint}"
        raise


def _storage_config(url: Url) -> StorageConfig:
    try:
        return storage_config(url)
    except UnknownSchemeError as error:
        if any(url.scheme in adapter.schemes for adapter in ENGINES.adapters.values()):
            error.hint = f"{url.scheme}:// is the address of a source; a storage is needed, {error.hint}"
        raise
