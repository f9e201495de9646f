"""A catalogue with one of every kind of object, as the views of a SQL Server would show it, for the double."""

from __future__ import annotations

import itertools
from typing import Any

from tests.engines.sqlserver_double import Database

Row = dict[str, Any]

SYSTEM_TYPES = {
    "image": 34, "text": 35, "uniqueidentifier": 36, "date": 40, "time": 41, "datetime2": 42, "datetimeoffset": 43,
    "tinyint": 48, "smallint": 52, "int": 56, "smalldatetime": 58, "real": 59, "money": 60, "datetime": 61, "float": 62,
    "sql_variant": 98, "ntext": 99, "bit": 104, "decimal": 106, "numeric": 108, "smallmoney": 122, "bigint": 127,
    "varbinary": 165, "varchar": 167, "binary": 173, "char": 175, "timestamp": 189, "nvarchar": 231, "nchar": 239,
    "xml": 241,
}  # fmt: skip
HIERARCHYID, PHONE, PRICES = 128, 257, 258
DATABASE_COLLATION = "SQL_Latin1_General_CP1_CI_AS"


class Catalogue:
    """Builds views row by row; object ids count up from 1000."""

    def __init__(self) -> None:
        self.ids = itertools.count(1000)
        self.views: dict[str, list[Row]] = {}
        self.add("schemas", name="dbo", schema_id=1)
        self.add("schemas", name="sys", schema_id=4)
        self.add("schemas", name="shop]", schema_id=5)
        for name, number in SYSTEM_TYPES.items():
            self.add_type(name, number, number, schema_id=4)
        self.add_type("hierarchyid", 240, HIERARCHYID, schema_id=4, is_assembly_type=True)

    def add(self, view: str, **row: Any) -> Row:
        self.views.setdefault(view, []).append(row)
        return row

    def add_type(self, name: str, system: int, user: int, **more: Any) -> None:
        usual = {"is_user_defined": False, "is_nullable": True, "max_length": 0, "precision": 0, "scale": 0,
                 "is_table_type": False, "is_assembly_type": False}  # fmt: skip
        self.add("types", name=name, system_type_id=system, user_type_id=user, **(usual | more))

    def object(self, view: str, kind: str, name: str, *, schema_id: int = 5, parent: int = 0, **more: Any) -> int:
        row = {"name": name, "object_id": next(self.ids), "schema_id": schema_id, "parent_object_id": parent,
               "type": kind, "is_ms_shipped": False}  # fmt: skip
        self.add("objects", **row)
        if view != "objects":
            self.add(view, **row, **more)
        return int(row["object_id"])

    def column(self, table: int, name: str, kind: str, **more: Any) -> int:
        number = 1 + sum(row["object_id"] == table for row in self.views.get("columns", ()))
        user = {"hierarchyid": HIERARCHYID, "phone": PHONE}.get(kind, SYSTEM_TYPES.get(kind, 0))
        system = {"hierarchyid": 240, "phone": 231}.get(kind, SYSTEM_TYPES.get(kind, 0))
        row = {"object_id": table, "name": name, "column_id": number, "system_type_id": system, "user_type_id": user,
               "max_length": 4, "precision": 10, "scale": 0, "is_nullable": True, "is_computed": False,
               "is_identity": False, "collation_name": None}  # fmt: skip
        self.add("columns", **(row | more))
        return number

    def index(self, table: int, name: str, number: int, kind: int, columns: list[int], **more: Any) -> None:
        row = {"object_id": table, "name": name, "index_id": number, "type": kind, "is_unique": False,
               "is_primary_key": False, "is_unique_constraint": False, "fill_factor": 0, "filter_definition": None,
               "is_disabled": False}  # fmt: skip
        included = more.pop("included", [])
        self.add("indexes", **(row | more))
        for place, column in enumerate([*columns, *included], 1):
            self.add("index_columns", object_id=table, index_id=number, index_column_id=place, column_id=column,
                     key_ordinal=place if column in columns else 0, is_descending_key=place == 2,
                     is_included_column=column in included)  # fmt: skip

    def module(self, object_id: int, definition: str | None) -> None:
        self.add("sql_modules", object_id=object_id, definition=definition, uses_ansi_nulls=True,
                 uses_quoted_identifier=False)  # fmt: skip


def everything() -> Database:
    """Returns a database of the double with one of everything; its tables wait for rows."""
    made = Catalogue()
    made.add_type("phone", 231, PHONE, schema_id=5, is_user_defined=True, max_length=60, is_nullable=False)
    people = made.object("tables", "U", "people")
    ident = made.column(people, "id", "int", is_nullable=False, is_identity=True)
    made.add("identity_columns", object_id=people, column_id=ident, name="id", seed_value=10, increment_value=5,
             last_value=30)  # fmt: skip
    name = made.column(people, "na'me]", "nvarchar", max_length=100, collation_name="Latin1_General_BIN2")
    made.column(people, "phone", "phone", is_nullable=False, max_length=60)
    twice = made.column(people, "twice", "int", is_computed=True)
    orders = made.object("tables", "U", "orders")
    owner = made.column(orders, "owner", "int")
    amount = made.column(orders, "amount", "decimal", precision=38, scale=10)
    made.column(orders, "version", "timestamp")
    files = made.object("tables", "U", "files", schema_id=1)
    made.column(files, "body", "xml", max_length=-1)
    made.column(files, "place", "hierarchyid")
    _programs(made, people, twice)
    _constraints(made, people, orders, (ident, name, owner, amount))
    made.add("sequences", name="numbers", object_id=next(made.ids), schema_id=5, type="SO", start_value=1, increment=2,
             minimum_value=1, maximum_value=100, is_cycling=False, is_cached=True, cache_size=50, current_value=7,
             last_used_value=7, system_type_id=56, user_type_id=56, precision=10, scale=0,
             is_ms_shipped=False)  # fmt: skip
    made.add("synonyms", name="folk", object_id=next(made.ids), schema_id=1, type="SN", is_ms_shipped=False,
             base_object_name="[shop]]].[people]")  # fmt: skip
    made.add("extended_properties", name="MS_Description", class_desc="OBJECT_OR_COLUMN", major_id=people,
             minor_id=name, value="who's who", **{"class": 1})  # fmt: skip
    made.add("database_principals", name="clerk", principal_id=7, is_fixed_role=False)
    tables = {"[shop]]].[people]", "[shop]]].[orders]", "[dbo].[files]"}
    return Database(tables=dict.fromkeys(tables), views=made.views)  # type: ignore[arg-type]


def _programs(made: Catalogue, people: int, twice: int) -> None:
    double = made.object("objects", "FN", "double")
    made.module(double, "CREATE FUNCTION [shop]]].[double] (@x int) RETURNS int AS BEGIN RETURN @x * 2 END")
    made.add("computed_columns", object_id=people, column_id=twice, definition="([shop]]].[double]([id]))")
    made.add("sql_expression_dependencies", referencing_id=people, referenced_id=double)
    upper = made.object("views", "V", "a_upper")
    made.module(upper, "CREATE VIEW [shop]]].[a_upper] AS SELECT * FROM [shop]]].[b_lower]")
    lower = made.object("views", "V", "b_lower")
    made.module(lower, "-- CREATE VIEW x\nCREATE /* was */ VIEW [old_name] AS SELECT 1 AS one")
    made.add("sql_expression_dependencies", referencing_id=upper, referenced_id=lower)
    made.module(made.object("objects", "P", "secret"), None)
    trigger = made.object("objects", "TR", "on_people", parent=people)
    made.add("triggers", name="on_people", object_id=trigger, parent_id=people, parent_class=1, is_disabled=True,
             is_ms_shipped=False, type="TR")  # fmt: skip
    made.module(trigger, "CREATE TRIGGER [shop]]].[on_people] ON [shop]]].[people] AFTER INSERT AS RETURN")
    made.add("trigger_events", object_id=trigger, type_desc="INSERT", is_first=True, is_last=False)


def _constraints(made: Catalogue, people: int, orders: int, columns: tuple[int, int, int, int]) -> None:
    ident, name, owner, amount = columns
    made.index(people, "pk_people", 1, 1, [ident], is_primary_key=True, is_unique=True)
    made.add("key_constraints", name="pk_people", object_id=next(made.ids), parent_object_id=people, unique_index_id=1)
    made.index(
        orders, "ix_orders", 2, 2, [owner], included=[amount], filter_definition="([amount]>(5))", fill_factor=80
    )
    made.index(orders, "cs_orders", 1, 5, [])
    made.index(people, "geo", 9, 4, [name], type_desc="SPATIAL")
    made.add("default_constraints", name="df", object_id=next(made.ids), parent_object_id=orders,
             parent_column_id=amount, definition="((0))")  # fmt: skip
    made.add("check_constraints", name="ck", object_id=next(made.ids), parent_object_id=orders, is_disabled=True,
             is_not_trusted=True, definition="([amount]>=(0))")  # fmt: skip
    key = made.object("foreign_keys", "F", "fk", parent=orders, referenced_object_id=people, is_disabled=False,
                      is_not_trusted=False, delete_referential_action_desc="SET_NULL")  # fmt: skip
    made.add("foreign_key_columns", constraint_object_id=key, constraint_column_id=1, parent_column_id=owner,
             referenced_column_id=ident)  # fmt: skip
