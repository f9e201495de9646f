"""SQL Server's rarer objects as statements, and what is said of those that a backup does not carry."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from dataguardian.engines.sqlserver import catalogue as read
from dataguardian.engines.sqlserver.checking import script
from dataguardian.engines.sqlserver.columns import travel
from dataguardian.engines.sqlserver.literals import literal
from dataguardian.engines.sqlserver.losses import losses
from dataguardian.engines.sqlserver.modules import module_sql
from dataguardian.engines.sqlserver.steps import steps_after, steps_before
from dataguardian.engines.sqlserver.stream import MAGIC, STEP, TRAILER, document
from dataguardian.engines.sqlserver.types import Cursor, read_type
from dataguardian.engines.sqlserver.values import decode_row
from tests.engines.sqlserver_sample import DATABASE_COLLATION, Catalogue


@pytest.fixture
def made() -> Catalogue:
    return Catalogue()


def catalogue_of(made: Catalogue, **options: Any) -> read.Catalogue:
    views: dict[str, list[read.Row]] = {view: [] for view in ("tables", "columns", "objects")}
    views |= made.views
    return read.Catalogue(views, DATABASE_COLLATION, options)


def statements(catalogue: read.Catalogue) -> list[str]:
    steps = [*steps_before(catalogue), *steps_after(catalogue)]
    assert not any("does not say" in warning for warning in catalogue.warnings), catalogue.warnings
    return [batch for step in steps for batch in step.batches]


def table_of(made: Catalogue, name: str = "t", **more: Any) -> int:
    table = made.object("tables", "U", name, schema_id=1, **more)
    made.column(table, "id", "int", is_nullable=False)
    return table


def said(catalogue: read.Catalogue) -> str:
    return "\n".join([*catalogue.warnings, *losses(catalogue)])


# Columns.


def test_texts_travel_in_their_own_collation(made: Catalogue) -> None:
    """The bytes of a text mean something in its collation only, be it the database's, which a target may not have."""
    table = table_of(made)
    made.column(table, "a", "varchar", max_length=50, collation_name=DATABASE_COLLATION)
    made.column(table, "b", "text", collation_name="Latin1_General_100_CI_AS_SC_UTF8")
    made.column(table, "c", "nvarchar", max_length=100, collation_name="Latin1_General_BIN2")
    catalogue = catalogue_of(made)
    ways = [travel(catalogue, column).type for column in catalogue.columns[table]][1:]
    assert ways == [
        f"varchar(50) COLLATE {DATABASE_COLLATION}",
        "varchar(max) COLLATE Latin1_General_100_CI_AS_SC_UTF8",
        "nvarchar(50)",
    ]


def test_types_with_words_of_their_own(made: Catalogue) -> None:
    """A vector says its dimensions in both directions; sysname, an alias, takes no COLLATE clause."""
    made.add_type("vector", 255, 255, schema_id=4)
    made.add_type("sysname", 231, 256, schema_id=4)
    table = table_of(made)
    made.column(table, "v", "vector", system_type_id=255, user_type_id=255, vector_dimensions=3)
    made.column(table, "n", "nvarchar", user_type_id=256, max_length=256, collation_name="Latin1_General_BIN2")
    catalogue = catalogue_of(made)
    [_, create] = statements(catalogue)
    assert "[v] vector(3) NULL" in create
    assert "[n] nvarchar(128) COLLATE Latin1_General_BIN2 NULL" in create
    assert travel(catalogue, catalogue.columns[table][1]).load == "CAST({0} AS vector(3))"
    assert "vectors travel as texts" in said(catalogue)


def test_a_column_that_only_its_clients_can_read(made: Catalogue) -> None:
    """Always Encrypted: the column stays out with all that is built on it, each told by name, and the rest restores."""
    table, other = table_of(made), table_of(made, "other")
    card = made.column(table, "card", "nvarchar", max_length=40, encryption_type=1)
    made.index(table, "ix_card", 2, 2, [card])
    made.index(table, "ix_id", 3, 2, [1])
    made.add(
        "default_constraints", name="df", object_id=1, parent_object_id=table, parent_column_id=card, definition="1"
    )
    made.add("check_constraints", name="ck", object_id=2, parent_object_id=table, definition="([card]<>'')")
    made.add("sql_expression_dependencies", referencing_id=2, referenced_id=table, referenced_minor_id=card)
    key = made.object("foreign_keys", "F", "fk", parent=table, referenced_object_id=other)
    made.add("foreign_key_columns", constraint_object_id=key, constraint_column_id=1, parent_column_id=card,
             referenced_column_id=1)  # fmt: skip
    catalogue = catalogue_of(made)
    everything = "\n".join(statements(catalogue))
    assert "card" not in everything
    assert "ix_id" in everything
    for words in ("index [ix_card]", "check [ck]", "foreign key [fk]", "[t].card is encrypted by its clients"):
        assert words in said(catalogue)


# Tables and indexes.


def test_history_is_kept_as_long_as_before(made: Catalogue) -> None:
    """A temporal table gets its period, its history and the time for which that is kept."""
    history = table_of(made, "t_history")
    table = made.object("tables", "U", "t", schema_id=1, history_table_id=history, history_retention_period=6,
                        history_retention_period_unit_desc="MONTH")  # fmt: skip
    begin, end = (made.column(table, name, "datetime2", scale=7, is_nullable=False) for name in ("since", "until"))
    made.add("periods", object_id=table, start_column_id=begin, end_column_id=end)
    found = statements(catalogue_of(made))
    assert "ALTER TABLE [dbo].[t] ADD PERIOD FOR SYSTEM_TIME ([since], [until])" in found
    assert found[-1] == (
        "ALTER TABLE [dbo].[t] SET (SYSTEM_VERSIONING = ON (HISTORY_TABLE = [dbo].[t_history],"
        " HISTORY_RETENTION_PERIOD = 6 MONTH))"
    )


def test_columnstores_and_compression(made: Catalogue) -> None:
    """Columnstores keep order, delay and archive compression; a table without a clustered index keeps its own."""
    table, heap = table_of(made), table_of(made, "heap")
    made.index(table, "cs", 1, 5, [], compression_delay=10)
    made.add("index_columns", object_id=table, index_id=1, index_column_id=1, column_id=1, key_ordinal=0,
             is_descending_key=False, is_included_column=False, column_store_order_ordinal=1)  # fmt: skip
    made.add("partitions", object_id=table, index_id=1, data_compression_desc="COLUMNSTORE_ARCHIVE")
    made.add("partitions", object_id=heap, index_id=0, data_compression_desc="PAGE")
    made.index(heap, "seq", 2, 2, [1], optimize_for_sequential_key=True)
    found = statements(catalogue_of(made))
    assert (
        "CREATE CLUSTERED COLUMNSTORE INDEX [cs] ON [dbo].[t] ORDER ([id])"
        " WITH (COMPRESSION_DELAY = 10, DATA_COMPRESSION = COLUMNSTORE_ARCHIVE)"
    ) in found
    assert "ALTER TABLE [dbo].[heap] REBUILD WITH (DATA_COMPRESSION = PAGE)" in found
    assert ("CREATE NONCLUSTERED INDEX [seq] ON [dbo].[heap] ([id]) WITH (OPTIMIZE_FOR_SEQUENTIAL_KEY = ON)") in found


def test_an_xml_index_over_chosen_paths_is_said(made: Catalogue) -> None:
    """No view tells the paths of a selective XML index, so it is named rather than made as another kind."""
    table = table_of(made)
    body = made.column(table, "body", "xml")
    made.index(table, "paths", 256000, 3, [body], type_desc="XML")
    made.add("xml_indexes", object_id=table, index_id=256000, name="paths", xml_index_type=2, using_xml_index_id=None)
    catalogue = catalogue_of(made)
    assert not any("INDEX" in batch for batch in statements(catalogue))
    assert "index [paths] of [dbo].[t] is of the kind XML" in said(catalogue)


def test_a_table_type_keeps_its_indexes(made: Catalogue) -> None:
    """Keys and indexes of a table type stand inside it, for it has no statements of its own."""
    object_id = next(made.ids)
    made.column(object_id, "id", "int", is_nullable=False)
    made.column(object_id, "place", "int")
    made.add("table_types", name="list", schema_id=1, user_type_id=300, type_table_object_id=object_id)
    made.index(object_id, "PK__x", 1, 1, [1], is_primary_key=True, is_unique=True)
    made.index(object_id, "by_place", 2, 2, [2], is_unique=True)
    [_, create] = statements(catalogue_of(made))
    assert "PRIMARY KEY CLUSTERED ([id]),\n  INDEX [by_place] UNIQUE NONCLUSTERED ([place])\n)" in create


def test_the_guest_schema_holds_what_is_put_there(made: Catalogue) -> None:
    """Every database has the schema, so it is not made; a table in it is a table like others."""
    made.add("schemas", name="guest", schema_id=2)
    made.column(made.object("tables", "U", "t", schema_id=2), "id", "int")
    assert statements(catalogue_of(made)) == [
        "CREATE SCHEMA [shop]]]",
        "CREATE TABLE [guest].[t] (\n  [id] int NULL\n)",
    ]


def test_schemas_of_roles_are_there_already(made: Catalogue) -> None:
    """They are known by their names: where ids are PostgreSQL's, every schema has one as high as theirs."""
    made.add("schemas", name="db_owner", schema_id=16384)
    made.add("schemas", name="own", schema_id=21000)
    made.add("database_principals", name="db_owner", principal_id=16384, is_fixed_role=True)
    made.add("database_principals", name="clerk", principal_id=22000, is_fixed_role=False)
    catalogue = catalogue_of(made)
    assert statements(catalogue) == ["CREATE SCHEMA [own]", "CREATE SCHEMA [shop]]]"]
    assert "1 users and roles, and what they may do, are not in this backup: clerk" in said(catalogue)


# Programs.


@pytest.mark.parametrize(
    ("text", "expected", "is_told"),
    [
        ("CREATE VIEW v AS SELECT 1 AS a", "CREATE VIEW [shop]]].[v] AS SELECT 1 AS a", False),
        ("create or alter view[V]as select 1 as a", "create or alter view[shop]]].[v]as select 1 as a", False),
        ("CREATE VIEW old.v AS SELECT 1 AS a", "CREATE VIEW [shop]]].[v] AS SELECT 1 AS a", True),
        ("CREATE VIEW [shop]]].v AS SELECT 1 AS a", "CREATE VIEW [shop]]].v AS SELECT 1 AS a", False),
    ],
    ids=["no schema", "other letters", "moved", "as it is"],
)
def test_a_program_is_made_where_it_is(made: Catalogue, text: str, expected: str, is_told: bool) -> None:
    """A text that names no schema, or that of before a move, makes its object in the right one all the same."""
    view = made.object("views", "V", "v")
    made.module(view, text)
    catalogue = catalogue_of(made)
    assert module_sql(catalogue, catalogue["views"][0])[-1] == expected  # type: ignore[index]
    assert any("was renamed" in warning for warning in catalogue.warnings) is is_told


def test_comments_before_a_program_cost_nothing(made: Catalogue) -> None:
    """A hundred comments before something unexpected are read once, not in every grouping."""
    view = made.object("views", "V", "v")
    made.module(view, "/* a */ " * 100 + "ALTER VIEW v AS SELECT 1 AS a")
    catalogue = catalogue_of(made)
    assert module_sql(catalogue, catalogue["views"][0]) is not None


def test_triggers_of_the_database_come_last(made: Catalogue) -> None:
    """They would fire at the statements of the restore itself."""
    table = table_of(made)
    trigger = next(made.ids)
    made.add("triggers", name="guard", object_id=trigger, parent_id=0, parent_class=0, is_disabled=False, type="TR",
             is_ms_shipped=False)  # fmt: skip
    made.module(trigger, "CREATE TRIGGER guard ON DATABASE FOR DDL_TABLE_EVENTS AS ROLLBACK")
    made.add("extended_properties", name="note", class_desc="OBJECT_OR_COLUMN", major_id=table, minor_id=0, value="x",
             **{"class": 1})  # fmt: skip
    found = statements(catalogue_of(made))
    assert found[-1] == "CREATE TRIGGER guard ON DATABASE FOR DDL_TABLE_EVENTS AS ROLLBACK"
    assert any("sp_addextendedproperty" in batch for batch in found)


def test_functions_of_computed_columns_without_an_account(made: Catalogue) -> None:
    """Where a server does not say what calls what, a function that a column names is made before its table."""
    table = table_of(made)
    twice = made.column(table, "twice", "int", is_computed=True)
    made.add("computed_columns", object_id=table, column_id=twice, definition="(dbo.Double([id]))")
    for name, text in {"double": "RETURN dbo.half(@x) * 4", "half": "RETURN @x / 2", "other": "RETURN 1"}.items():
        function = made.object("objects", "FN", name, schema_id=1)
        made.module(function, f"CREATE FUNCTION dbo.{name} (@x int) RETURNS int AS BEGIN {text} END")
    found = statements(catalogue_of(made))
    order = [batch.split("(")[0].strip() for batch in found if batch.startswith("CREATE")]
    assert order[-2:] == ["CREATE TABLE [dbo].[t]", "CREATE FUNCTION dbo.other"]
    assert {"CREATE FUNCTION dbo.double", "CREATE FUNCTION dbo.half"} <= set(order[:-2])


# What is not carried.


def test_what_is_not_carried_is_said(made: Catalogue) -> None:
    """Each kind of thing that stays behind is named in the warnings, with the settings that a restore does not give."""
    table = table_of(made, ledger_type=2)
    made.column(table, "c", "char", max_length=10, is_ansi_padded=False)
    made.object("objects", "D", "no_rule")
    made.object("objects", "SQ", "orders")
    made.add("database_principals", name="clerk", principal_id=7, is_fixed_role=False)
    made.views["schemas"][2]["principal_id"] = 7
    made.add("stats", object_id=table, name="by_hand", user_created=True)
    made.add("stats", object_id=table, name="_WA_Sys", user_created=False)
    made.add("change_tracking_tables", object_id=table)
    made.add("data_spaces", name="PRIMARY", type="FG", is_default=True)
    made.add("data_spaces", name="ARCHIVE", type="FG", is_default=False)
    made.add("security_policies", name="own_rows", is_ms_shipped=False)
    made.add("symmetric_keys", name="##MS_DatabaseMasterKey##")
    made.add("certificates", name="signing")
    warnings = said(catalogue_of(made, is_encrypted=True, is_recursive_triggers_on=1, is_trustworthy_on=False))
    for words in (
        "[t] is a ledger table",
        "ANSI_PADDING OFF come back with it ON, and padded: c",
        "[shop]]].[no_rule] is a D,",
        "[shop]]].[orders] is a SQ,",
        "1 schemas and objects that others own come back as dbo's: shop]",
        "1 statistics that somebody made are not in this backup: by_hand",
        "tables' change tracking are not in this backup: t",
        "1 filegroups (their tables come back in the default one) are not in this backup: ARCHIVE",
        "only the rows that this login may see",
        "1 certificates are not in this backup: signing",
        "the database's settings encryption at rest (TDE), RECURSIVE_TRIGGERS are not in this backup",
    ):
        assert words in warnings, warnings
    assert "symmetric" not in warnings


# The script.


def test_a_script_that_sqlcmd_reads_as_it_is_meant() -> None:
    """Lines that sqlcmd takes for its own are never at a line's start, and one program's settings do not stay."""
    text = "CREATE PROCEDURE p AS /*\nGO\n*/ RETURN"
    steps = [
        {"kind": "procedure", "name": "p", "batches": ["SET ANSI_NULLS ON", "SET QUOTED_IDENTIFIER OFF", text]},
        {"kind": "index", "name": "i", "batches": ["CREATE INDEX i ON t (a)"]},
    ]
    records = [document(STEP, step) for step in steps] + [document(TRAILER, {"tables": 0, "rows": 0})]
    batches = list(script([MAGIC, *records]))
    assert not any(line.strip().upper() == "GO" for batch in batches for line in batch.splitlines())
    assert "CAST(N'CREATE PROCEDURE p AS /*' AS nvarchar(max)) + (NCHAR(10) + CAST(N'GO\n*/ RETURN'" in batches[3]
    assert "SET QUOTED_IDENTIFIER ON" in batches[0]
    assert "SET QUOTED_IDENTIFIER ON" in batches[4]
    assert batches[5] == "CREATE INDEX i ON t (a)"


@pytest.mark.parametrize(
    "value", ["a\nGO\nb", "a\r\n  go 5", "a\n:r file", "a\n!! rm", "a'\rEXIT(SELECT 1)", "a\\\r\n"]
)
def test_a_text_with_a_line_of_sqlcmds(value: str) -> None:
    """Such a text is written in pieces, which make it again; only what no file holds is written as its bytes."""
    column = read_type(Cursor(bytes.fromhex("e7ffff0904d00034")))
    written = literal(column, value)
    assert not re.search(r"\\\r?\n|[\r\n]\s*(?i:go|:|!!|exit)", written)
    found = re.findall(r"CAST\(N'((?:[^']|'')*)' AS nvarchar\(max\)\)|NCHAR\((\d+)\)", written)
    assert "".join(chr(int(number)) if number else text.replace("''", "'") for text, number in found) == value
    assert literal(column, "go\nGOOD\nto: go") == "N'go\nGOOD\nto: go'"
    assert literal(column, "\ud83d\nGO") == "CAST(0x3dd80a0047004f00 AS nvarchar(max))"
    most = literal(column, "\nGO" * 5000)
    assert max(itertools.accumulate((part == "(") - (part == ")") for part in re.findall(r"[()]", most))) < 30


def test_bytes_that_a_code_page_leaves_open() -> None:
    """They are the control characters that Windows makes of them, which the server turns into the same bytes."""
    column = read_type(Cursor(bytes.fromhex("a7" + "3200" + "0904d00034")))
    assert decode_row(b"\x03\x00\x81\x8dx", 0, [column])[0] == ["\x81\x8dx"]
