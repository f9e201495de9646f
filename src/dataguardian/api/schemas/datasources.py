"""Bodies of /api/datasources. What `connection_config` takes is known only at run time: it depends on the adapters."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, cast

from pydantic import Field, StringConstraints, create_model

from dataguardian.api.schemas.common import Flag, Input, JsonObject, Moment, Name, Output, example, shown, unsent
from dataguardian.db.models import Datasource
from dataguardian.domain.states import DatasourceStatus
from dataguardian.domain.urls import parse_url
from dataguardian.engines.registry import ENGINES
from dataguardian.registry import Adapter, AdapterConfig, Registry
from dataguardian.service.definitions import shown_config
from dataguardian.service.secrets import MASK, revealed

Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=50)]
Tags = Annotated[list[Tag], Field(max_length=50)]


class DatasourceIn(Input):
    """What all types of datasource have in common."""

    name: Name
    enabled: Flag = True
    production: Annotated[Flag, Field(description="Only administrators restore into it")] = True
    tags: Tags = Field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Returns what core takes: secrets in clear, without the `type` that stands beside the configuration."""
        return self.sent() | {"connection_config": plain_config(cast("Any", self).connection_config)}


class DatasourceChange(Input):
    """Only what is sent changes. In `connection_config` null removes a key, and a mask keeps the stored secret."""

    model_config = example({"name": "shop", "connection_config": {"host": "db2.example.org", "password": MASK}})

    name: Name = unsent()
    enabled: Flag = unsent()
    production: Flag = unsent()
    tags: Tags = unsent()
    connection_config: JsonObject = unsent()


class DatasourceOut(Output):
    id: uuid.UUID
    name: str
    type: str
    connection_config: Annotated[JsonObject, Field(description=f"Secrets are shown as {MASK}")]
    status: DatasourceStatus
    enabled: bool
    production: Annotated[bool, Field(description="Only administrators restore into it")]
    tags: list[str]
    last_health_check_at: Moment | None
    consecutive_failures: int
    outage_since: Moment | None
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, row: Datasource) -> Self:
        return shown(cls, row, connection_config=shown_config(row))


def body_union(registry: Registry[Any], base: type[Input], config_field: str) -> Any:  # noqa: ANN401 -- as above
    """Returns `base` with `type` and a configuration, once per adapter, as one type told apart by `type`."""
    models = tuple(_body(adapter, base, config_field) for adapter in registry.adapters.values())
    return Annotated[Union[models], Field(discriminator="type")] if len(models) > 1 else models[0]  # noqa: UP007 -- not a literal union


def _body(adapter: Adapter[Any], base: type[Input], config_field: str) -> type[Input]:
    def add_example(schema: dict[str, Any]) -> None:
        config = adapter.config.from_url(parse_url(adapter.example))
        schema["examples"] = [{"name": "shop", "type": adapter.type, config_field: plain_config(config)}]

    fields: dict[str, Any] = {"type": (Literal[adapter.type], ...), config_field: (adapter.config, ...)}
    return create_model(
        f"{base.__name__}_{adapter.type}", __base__=base, __cls_kwargs__={"json_schema_extra": add_example}, **fields
    )


def plain_config(config: AdapterConfig) -> dict[str, Any]:
    return {key: value for key, value in revealed(config).items() if key != "type"}


if TYPE_CHECKING:
    DatasourceBody = DatasourceIn
else:
    DatasourceBody = body_union(ENGINES, DatasourceIn, "connection_config")
