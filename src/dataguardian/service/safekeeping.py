"""Configurations on their way into rows and out of them: their secrets are sealed there, and opened where one is used.

Each secret is sealed for its own place (table, row, column, path), so that one that is copied to another does not open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import BackupJob, Datasource, StorageLocation
from dataguardian.domain.errors import SecretUnreadableError, UnknownSchemeError, UsageError
from dataguardian.domain.secretfields import UNKNOWN, Path, has_password, secret_paths
from dataguardian.engines.registry import ENGINES
from dataguardian.service.keycheck import fence
from dataguardian.service.options import BackupOptions
from dataguardian.service.secrets import MASK, revealed
from dataguardian.service.vault import Vault, key_id_of
from dataguardian.storage.registry import STORAGES

Row = Datasource | StorageLocation | BackupJob


@dataclass(frozen=True)
class Unreadable:
    """Stands in a document for a secret that cannot be opened."""

    error: SecretUnreadableError


def owner_of(row: Row) -> str:
    """Returns what the secrets of a row belong to; a row's id never changes."""
    return f"{row.__tablename__}/{row.id}"


def setting_owner(key: str) -> str:
    return f"system_settings/{key}"


def document_of(row: Row) -> dict[str, Any]:
    """Returns a row's configuration as it is stored."""
    if isinstance(row, BackupJob):
        return row.backup_options
    return row.connection_config if isinstance(row, Datasource) else row.config


def put_document(row: Row, document: dict[str, Any]) -> None:
    if isinstance(row, BackupJob):
        row.backup_options = document
    elif isinstance(row, Datasource):
        row.connection_config = document
    else:
        row.config = document


def model_of(row: Row) -> Any:  # noqa: ANN401 -- a type, or UNKNOWN
    """Returns the type of a row's configuration; UNKNOWN when its adapter is not installed."""
    if isinstance(row, BackupJob):
        return BackupOptions
    try:
        return (ENGINES if isinstance(row, Datasource) else STORAGES).by_type(row.type).config
    except UnknownSchemeError:
        return UNKNOWN


async def sealed(session: AsyncSession, config: BaseModel, vault: Vault, owner: str) -> dict[str, Any]:
    """Returns a configuration as it is stored, without its `type`, in the transaction that stores it.

    Raises ConflictError when the catalogue's key is no longer this process's, UsageError for a text that only a secret
    may be.
    """
    await fence(session, vault)
    document = revealed(config, keep_none=isinstance(config, BackupOptions))
    document.pop("type", None)
    secret = set(secret_paths(type(config), document))

    def put(value: str, path: Path) -> str:
        if path in secret and value:
            return vault.seal(value, purpose=_purpose(owner, path))
        if vault.is_sealed(value):
            raise UsageError(f"{'.'.join(path)} looks like a sealed secret", hint="choose another text")
        return value

    return _changed(document, put)


def seal_clear(model: Any, document: Mapping[str, Any], vault: Vault, owner: str) -> dict[str, Any]:  # noqa: ANN401 -- a type
    """Returns a stored document with those secrets sealed that are not yet; it need not be valid."""
    secret = set(secret_paths(model, document))

    def put(value: str, path: Path) -> str:
        clear = path in secret and value and not vault.is_sealed(value)
        return vault.seal(value, purpose=_purpose(owner, path)) if clear else value

    return _changed(document, put)


def reseal(document: Mapping[str, Any], old: Vault, new: Vault, owner: str) -> dict[str, Any]:
    """Returns a stored document sealed with the new key; what the old vault cannot open stays as it is."""

    def put(value: str, path: Path) -> str:
        if not old.is_sealed(value):
            return value
        purpose = _purpose(owner, path)
        try:
            return new.seal(old.open(value, purpose=purpose), purpose=purpose)
        except SecretUnreadableError:
            return value

    return _changed(document, put)


def opened(document: Mapping[str, Any], vault: Vault, owner: str) -> dict[str, Any]:
    """Returns a stored document in clear; raises SecretUnreadableError that names what cannot be opened."""
    return whole(opened_where_possible(document, vault, owner))


def opened_config(row: Datasource | StorageLocation, vault: Vault) -> dict[str, Any]:
    """Returns what an engine or a storage is built from; raises SecretUnreadableError."""
    return {"type": row.type, **opened(document_of(row), vault, owner_of(row))}


def opened_options(row: BackupJob, vault: Vault) -> BackupOptions:
    """Returns a job's options, as they were checked when they were stored; raises SecretUnreadableError."""
    return BackupOptions.model_validate(opened(row.backup_options, vault, owner_of(row)))


def opened_where_possible(document: Mapping[str, Any], vault: Vault, owner: str) -> dict[str, Any]:
    """Returns a stored document in clear, with Unreadable for what cannot be opened."""

    def put(value: str, path: Path) -> str | Unreadable:
        if not vault.is_sealed(value):
            return value
        try:
            return vault.open(value, purpose=_purpose(owner, path))
        except SecretUnreadableError as error:
            return Unreadable(error)

    return _changed(document, put)


def whole(document: dict[str, Any]) -> dict[str, Any]:
    """Returns the document; raises SecretUnreadableError when a secret in it could not be opened."""
    lacking = dict(_unreadable(document))
    if lacking:
        error = next(iter(lacking.values())).error
        names = ", ".join(".".join(path) for path in lacking)
        raise SecretUnreadableError(
            f"{names} cannot be opened: {error.message}", hint=error.hint, **{**error.details, "fields": names}
        )
    return document


def shown(document: Mapping[str, Any], model: Any) -> dict[str, Any]:  # noqa: ANN401 -- a type
    """Returns a stored document as it may be shown. Needs no key."""
    secret = set(secret_paths(model, document))

    def put(value: str, path: Path) -> str:
        return MASK if (path in secret and value) or has_password(value) or key_id_of(value) else value

    return _changed(document, put)


def unreadable_in(document: Mapping[str, Any], vault: Vault, owner: str) -> dict[str, str]:
    """Returns the dotted names of what cannot be opened, and the id of the key that each was sealed with."""
    found = _unreadable(opened_where_possible(document, vault, owner))
    return {".".join(path): str(item.error.details.get("key_id", "")) for path, item in found}


def _purpose(owner: str, path: Path) -> str:
    return "/".join([owner, *(name.replace("~", "~0").replace("/", "~1") for name in path)])


def _changed(document: Mapping[str, Any], put: Callable[[str, Path], Any]) -> dict[str, Any]:
    """Returns a copy of a document with every text replaced by what `put` makes of it and its path."""

    def walk(value: Any, path: Path) -> Any:  # noqa: ANN401 -- plain JSON
        if isinstance(value, str):
            return put(value, path)
        if isinstance(value, Unreadable):
            return MASK
        if isinstance(value, Mapping):
            return {key: walk(item, (*path, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [walk(item, (*path, str(number))) for number, item in enumerate(value)]
        return value

    return {key: walk(item, (str(key),)) for key, item in document.items()}


def _unreadable(value: Any, path: Path = ()) -> Iterator[tuple[Path, Unreadable]]:  # noqa: ANN401 -- plain JSON
    if isinstance(value, Unreadable):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unreadable(item, (*path, str(key)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unreadable(item, (*path, str(number)))
