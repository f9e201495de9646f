"""What Babelfish shows in other places than SQL Server, or in PostgreSQL's words."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dataguardian.engines.sqlserver import babelfish
from dataguardian.engines.sqlserver.babelfish import as_tsql
from dataguardian.engines.sqlserver.session import ServerError, Session

Row = dict[str, Any]


class Answers:
    """A session that knows what it answers to some queries, and refuses the others."""

    def __init__(self, **answers: list[Row]) -> None:
        self.answers = answers

    def query(self, sql: str) -> list[Row]:
        for words, rows in self.answers.items():
            if words in sql:
                return rows
        raise ServerError([(208, 1, f"no answer to {sql}")])


def session(answers: dict[str, list[Row]]) -> Session:
    return cast("Session", Answers(**answers))


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        ("nextval('shop_sales.seq')", "NEXT VALUE FOR [sales].[seq]"),
        ("nextval('shop_sales.seq'::regclass)", "NEXT VALUE FOR [sales].[seq]"),
        ("shop_sales.plus2(1, 'a::b ~~* || shop_sales.x')", "[sales].plus2(1, 'a::b ~~* || shop_sales.x')"),
        ("((c ~~* 'x%') AND (c < ('x' || 'it''s')))", "((c LIKE 'x%') AND (c < ('x' + 'it''s')))"),
        (
            "(((c)::text ~~* 'a%'::text) AND (((c)::text >= 'a'::text) AND ((c)::text < ('a' || '\uffff'::text))))",
            "(((c) LIKE 'a%'))",
        ),
        ("((c ~~* 'x%') AND ((c >= 'x') AND (c < ('x' || '\uffff' COLLATE latin1_general_ci_as))))", "((c LIKE 'x%'))"),
        ("(c !~~ 'x%')", "(c NOT LIKE 'x%')"),
        (
            "CASE WHEN (x > 1) THEN 'a'::\"varchar\" ELSE ('b'::\"varchar\")::nvarchar(1) END",
            "CASE WHEN (x > 1) THEN 'a' ELSE ('b') END",
        ),
        ("(now())::timestamp(3) without time zone", "(now())"),
        ("(x)::numeric(10,2) + upper('q'::text COLLATE \"default\")", "(x) + upper('q')"),
        ("sys.upper(s)", "sys.upper(s)"),
        ("(12.5 + x)", "(12.5 + x)"),
    ],
)
def test_expressions(shown: str, meant: str) -> None:
    """Bits of PostgreSQL's language become T-SQL, names of schemas those of this database; texts stay as they are."""
    assert as_tsql(shown, {"shop_sales": "sales", "shop_dbo": "dbo"}) == meant


def test_a_view_is_read_row_by_row() -> None:
    """One expression that the server cannot write does not cost those of all others: PostgreSQL is asked for it."""
    rows = [{"name": f"ck{number}", "object_id": number, "parent_object_id": 9} for number in (1, 2, 3)]
    answers: dict[str, list[Row]] = {
        "SELECT name, object_id, parent_object_id, is_disabled": rows,
        "WHERE object_id = 1": [{"definition": "(a > 0)"}],
        "WHERE oid = 2": [{"definition": "(COALESCE(a, 1) > 0)"}],
    }
    found = babelfish.expressions(session(answers), "check_constraints")
    assert [row["definition"] for row in found] == ["(a > 0)", "(COALESCE(a, 1) > 0)", None]


def test_what_is_missing_is_added() -> None:
    """Names are as they were written, sequences are there with their place, defaults of bytes are bytes, and the type
    of a function's result is made with the function.
    """
    long = "L" * 70
    views: dict[str, list[Row]] = {
        "schemas": [{"schema_id": 5, "name": "sales"}],
        "types": [{"user_type_id": 1, "name": "varbinary"}, {"user_type_id": 2, "name": "varchar"}],
        "tables": [{"object_id": 10, "name": "orders"}, {"object_id": 11, "name": "renamed"}],
        "objects": [{"object_id": 10, "name": "orders", "type": "U "}, {"object_id": 20, "name": "f", "type": "FN"}],
        "columns": [
            {"object_id": 10, "column_id": 1, "name": "camelid", "user_type_id": 1},
            {"object_id": 10, "column_id": 2, "name": "l" * 31 + "0" * 32, "user_type_id": 2},
        ],
        "default_constraints": [
            {"object_id": 30, "parent_object_id": 10, "parent_column_id": 1, "definition": "'0x01'"},
            {"object_id": 31, "parent_object_id": 10, "parent_column_id": 2, "definition": "'0x01'"},
        ],
        "table_types": [{"name": "@r_f", "type_table_object_id": 13}, {"name": "@mine", "type_table_object_id": 12}],
        "sequences": [],
    }
    answers: dict[str, list[Row]] = {
        "FROM INFORMATION_SCHEMA.COLUMNS": [
            {"object_id": 10, "table_name": "Orders", "column_name": "CamelId", "column_id": 1},
            {"object_id": 10, "table_name": "Orders", "column_name": long, "column_id": 2},
            {"object_id": 11, "table_name": "Other", "column_name": "x", "column_id": 1},
            {"object_id": 12, "table_name": "@Mine", "column_name": "x", "column_id": 1},
        ],
        "FROM pg_catalog.pg_sequence": [{"object_id": 40, "name": "seq", "schema_id": 5, "start_value": 1}],
        "FROM [sales].[seq]": [{"last_value": 7, "is_called": True}],
    }
    babelfish.complete(session(answers), views)
    assert [row["name"] for row in views["tables"]] == ["Orders", "renamed"]
    assert [row["name"] for row in views["objects"]] == ["Orders", "f"]
    assert [row["name"] for row in views["columns"]] == ["CamelId", long]
    assert [row["definition"] for row in views["default_constraints"]] == ["0x01", "'0x01'"]
    assert [row["name"] for row in views["table_types"]] == ["@Mine"]
    assert [(row["name"], row["last_used_value"]) for row in views["sequences"]] == [("seq", 7)]
