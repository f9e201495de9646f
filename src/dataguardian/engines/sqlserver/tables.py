"""A table on its way: how its rows are asked for, how the stream describes them, and how they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dataguardian.domain.errors import IntegrityError
from dataguardian.engines.sqlserver.catalogue import Catalogue, Row
from dataguardian.engines.sqlserver.columns import Travel, is_stored, travel
from dataguardian.engines.sqlserver.server import quoted
from dataguardian.engines.sqlserver.types import Column, Cursor, read_type
from dataguardian.engines.sqlserver.wire import ProtocolError

STAGE = "[dbo].[dataguardian_stage]"


@dataclass(frozen=True)
class TravellingTable:
    """A table whose rows are in the stream. `travels` and `columns` belong together, one by one."""

    schema: str
    name: str
    identity: bool
    travels: list[Travel]
    columns: list[Column]

    @property
    def quoted(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def is_staged(self) -> bool:
        """Tells whether rows must be converted on the server before they are what the table holds."""
        return any(found.load for found in self.travels)

    @property
    def names(self) -> str:
        return ", ".join(quoted(found.name) for found in self.travels)

    @property
    def loads(self) -> str:
        return ", ".join((found.load or "{0}").format(quoted(found.name)) for found in self.travels)

    def insert_bulk(self) -> str:
        """Returns the statement that announces a bulk load."""
        where = STAGE if self.is_staged else self.quoted
        columns = ", ".join(f"{quoted(found.name)} {found.type}" for found in self.travels)
        return f"INSERT BULK {where} ({columns}) WITH (KEEP_NULLS, TABLOCK)"

    def stage(self) -> str:
        """Returns the statement that makes the place where rows wait for their conversion."""
        columns = ", ".join(f"{quoted(found.name)} {found.type} NULL" for found in self.travels)
        return f"CREATE TABLE {STAGE} ({columns})"

    def as_document(self) -> dict[str, Any]:
        described = [
            {"name": way.name, "type": way.type, "load": way.load, "info": column.info.hex(), "null": column.nullable}
            for way, column in zip(self.travels, self.columns, strict=True)
        ]
        return {"schema": self.schema, "table": self.name, "identity": self.identity, "columns": described}


def select_of(catalogue: Catalogue, table: Row) -> tuple[list[Travel], str]:
    """Returns the columns that travel and the query for them; no column and '' for a table without any."""
    stored = [column for column in catalogue.columns[table["object_id"]] if is_stored(catalogue, column)]
    travels = [travel(catalogue, column) for column in stored]
    if not travels:
        catalogue.warnings.append(
            f"{catalogue.name(table)} has no column with values of its own: its rows are not in this backup"
        )
        return [], ""
    names = ", ".join(found.select for found in travels)
    return travels, f"SELECT {names} FROM {catalogue.name(table)}"  # noqa: S608 -- quoted names


def from_document(value: dict[str, Any]) -> TravellingTable:
    """Reads what `as_document` wrote; raises IntegrityError."""
    try:
        travels = [Travel(item["name"], "", item["type"], item["load"]) for item in value["columns"]]
        columns = [_column(item) for item in value["columns"]]
        return TravellingTable(value["schema"], value["table"], bool(value["identity"]), travels, columns)
    except (KeyError, TypeError, ValueError, IndexError, ProtocolError) as error:
        raise IntegrityError("the stream describes a table in a way that cannot be read") from error


def _column(item: dict[str, Any]) -> Column:
    info = bytes.fromhex(item["info"])
    draft = read_type(Cursor(info))
    return Column(
        item["name"], draft.type, info, draft.layout, draft.size_bytes, draft.precision, draft.scale, draft.collation,
        nullable=bool(item["null"]),
    )  # fmt: skip
