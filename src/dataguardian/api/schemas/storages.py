"""Bodies of /api/storage-locations. What `config` takes is known only at run time: it depends on the adapters."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

from pydantic import Field

from dataguardian.api.schemas.common import Flag, Input, JsonObject, Moment, Name, Output, example, shown, unsent
from dataguardian.api.schemas.datasources import body_union, plain_config
from dataguardian.db.models import StorageLocation
from dataguardian.domain.states import StorageStatus
from dataguardian.service.definitions import shown_config
from dataguardian.service.secrets import MASK
from dataguardian.storage.registry import STORAGES


class StorageIn(Input):
    """What all types of storage location have in common."""

    name: Name
    is_default: Flag = False

    def fields(self) -> dict[str, Any]:
        """Returns what core takes: secrets in clear, without the `type` that stands beside the configuration."""
        return self.sent() | {"config": plain_config(cast("Any", self).config)}


class StorageChange(Input):
    """Only what is sent changes. In `config` null removes a key, and a mask keeps the stored secret."""

    model_config = example({"name": "disk", "is_default": True, "config": {"max_size_gb": 500}})

    name: Name = unsent()
    is_default: Flag = unsent()
    config: JsonObject = unsent()


class StorageOut(Output):
    id: uuid.UUID
    name: str
    type: str
    config: Annotated[JsonObject, Field(description=f"Secrets are shown as {MASK}")]
    is_default: bool
    status: StorageStatus
    available_space_gb: Annotated[float | None, Field(description="In 10^9 bytes, as of the last check")]
    last_health_check_at: Moment | None
    consecutive_failures: int
    outage_since: Moment | None
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, row: StorageLocation) -> Self:
        return shown(cls, row, config=shown_config(row))


if TYPE_CHECKING:
    StorageBody = StorageIn
else:
    StorageBody = body_union(STORAGES, StorageIn, "config")
