"""Whether the storage locations of a job are several: two under other names may be one place."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import StorageLocation
from dataguardian.db.repositories.definitions import StorageRepository
from dataguardian.domain.errors import DataGuardianError, UsageError
from dataguardian.service.safekeeping import opened_config
from dataguardian.service.vault import Vault
from dataguardian.storage.registry import storage_document


async def check_targets(session: AsyncSession, own: uuid.UUID | None, options: Mapping[str, Any], vault: Vault) -> None:
    """Raises NotFoundError for a further storage location that is not there, UsageError when it is the job's own, or
    the same place as another one of the job: whoever counts on two copies would have one.
    """
    further = options.get("storage_targets", ())
    if not further:
        return
    repository = StorageRepository(session)
    first = await repository.default() if own is None else await repository.get(own)
    taken = {} if first is None else {_place(first, vault): first}
    for target in further:
        row = await repository.locked(uuid.UUID(str(target)))
        if row.id == own:
            raise UsageError(
                f"not valid: storage_targets: {row.name} is the job's own storage location",
                hint="storage_targets are those beside it",
            )
        twin = taken.setdefault(_place(row, vault), row)
        if twin.id != row.id:
            raise UsageError(
                f"not valid: storage_targets: {row.name} and {twin.name} are the same place",
                hint="a further copy needs a place of its own",
            )


def _place(row: StorageLocation, vault: Vault) -> str:
    """Returns the address; where nobody can tell it now, what no other one has."""
    try:
        return storage_document(opened_config(row, vault)).describe()
    except DataGuardianError:
        return str(row.id)
