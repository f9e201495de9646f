"""Which schemas and tables of a database are dumped: `include` and `exclude`, turned into pg_dump's own options.

`shop` is every schema and every table of that name, `shop.orders` one table, `shop.*` a schema with all that is in it;
`*` and `?` stand for any characters and for one. A choice that would leave out what the rest needs is refused before
the dump: such a backup could not be restored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dataguardian.domain.errors import UsageError
from dataguardian.engines.base import DumpOptions

if TYPE_CHECKING:
    from dataguardian.engines.postgres.server import Connection

_SHOWN = 3
_SCHEMAS = """
SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
"""
# An extension's own relations come and go with it.
_RELATIONS = """
SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                AND d.objid = c.oid AND d.deptype = 'e')
"""
# A sequence that belongs to a column comes with its table.
_OWNED = """
SELECT objid, refobjid FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass
AND refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND refobjsubid > 0 AND deptype IN ('a', 'i')
"""
# (who, whom): a constraint's table and the table it refers to; a view and what it reads; a partition and its parent;
# a column's default and the sequence in it.
_NEEDS = """
SELECT conrelid, confrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conrelid <> 0
UNION SELECT r.ev_class, d.refobjid FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d
    ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> r.ev_class
UNION SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits
UNION SELECT a.adrelid, d.refobjid FROM pg_catalog.pg_attrdef a JOIN pg_catalog.pg_depend d
    ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = a.oid
    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> a.adrelid
"""
# (relation, schema, what): types and functions of a user's schema that a relation needs, by its columns, defaults,
# constraints, triggers, rules, policies and indexes.
_NEEDS_OBJECTS = """
WITH holders AS (
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS class, oid, oid AS relation FROM pg_catalog.pg_class
    UNION ALL SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, oid, adrelid FROM pg_catalog.pg_attrdef
    UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, oid, conrelid FROM pg_catalog.pg_constraint
    UNION ALL SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass, oid, tgrelid FROM pg_catalog.pg_trigger
    UNION ALL SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, oid, ev_class FROM pg_catalog.pg_rewrite
    UNION ALL SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, oid, polrelid FROM pg_catalog.pg_policy
    UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, indexrelid, indrelid FROM pg_catalog.pg_index
), objects AS (
    SELECT 'pg_catalog.pg_type'::pg_catalog.regclass AS class, t.oid, typnamespace AS schema, 'type ' || typname AS what
        FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
        WHERE t.typrelid = 0 OR c.relkind = 'c'
    UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, oid, pronamespace, 'function ' || proname
        FROM pg_catalog.pg_proc
    UNION ALL SELECT 'pg_catalog.pg_collation'::pg_catalog.regclass, oid, collnamespace, 'collation ' || collname
        FROM pg_catalog.pg_collation
)
SELECT DISTINCT h.relation, n.nspname, o.what FROM holders h
JOIN pg_catalog.pg_depend d ON d.classid = h.class AND d.objid = h.oid
JOIN objects o ON o.class = d.refclassid AND o.oid = d.refobjid
JOIN pg_catalog.pg_namespace n ON n.oid = o.schema
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = o.class AND e.objid = o.oid AND e.deptype = 'e')
"""
_EXTENSION_SCHEMAS = """
SELECT DISTINCT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""


@dataclass(frozen=True)
class Selection:
    """What to tell pg_dump. `schemas` must be there before the archive can be restored: it does not make them."""

    options: tuple[str, ...] = ()
    schemas: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Relation:
    schema: str
    name: str
    kind: str

    def __str__(self) -> str:
        noun = {"v": "view", "m": "view", "S": "sequence"}.get(self.kind, "table")
        return f"{noun} {self.schema}.{self.name}"


@dataclass(frozen=True)
class _Pattern:
    """A pattern with one part, or with two. `bare` is one part, which stands for a schema or a table."""

    text: str
    schema: str | None
    table: str | None

    def takes_schema(self, schema: str) -> bool:
        return self.schema is not None and self.table is None and _like(self.schema, schema)

    def takes(self, relation: _Relation) -> bool:
        if self.schema is not None and self.table is not None:
            return _like(self.schema, relation.schema) and _like(self.table, relation.name)
        return self.takes_schema(relation.schema) or (self.table is not None and _like(self.table, relation.name))


@dataclass
class _Choice:
    """One side of the selection, sorted into what names schemas and what names relations."""

    schemas: list[_Pattern] = field(default_factory=list)
    tables: list[_Pattern] = field(default_factory=list)

    def takes(self, relation: _Relation) -> bool:
        return any(pattern.takes(relation) for pattern in (*self.schemas, *self.tables))


def select(connection: Connection, options: DumpOptions) -> Selection:
    """Asks the connected database what the patterns mean; raises UsageError for what could not be restored."""
    if not options.include and not options.exclude:
        return Selection()
    schemas = [row[0] for row in connection.execute(_SCHEMAS)]
    relations = {oid: _Relation(*rest) for oid, *rest in connection.execute(_RELATIONS)}
    wanted = _choice(options.include, schemas, relations.values(), must_match=True)
    unwanted = _choice(options.exclude, schemas, relations.values(), must_match=False)
    chosen = {
        oid
        for oid, relation in relations.items()
        if (not options.include or wanted.takes(relation)) and not unwanted.takes(relation)
    }
    chosen |= {sequence for sequence, table in connection.execute(_OWNED) if table in chosen and sequence in relations}
    _refuse_torn(connection, relations, chosen)
    left_out = {schema for schema in schemas if any(pattern.takes_schema(schema) for pattern in unwanted.schemas)}
    whole = {schema for schema in schemas if any(pattern.takes_schema(schema) for pattern in wanted.schemas)}
    # pg_dump --table brings nothing but relations, not even their schemas.
    brought = set(schemas) if not options.include else set() if wanted.tables else whole
    _refuse_lost_objects(connection, relations, chosen, brought - left_out)
    needed = {relations[oid].schema for oid in chosen} | {row[0] for row in connection.execute(_EXTENSION_SCHEMAS)}
    return Selection(
        tuple(_including(wanted, unwanted) if options.include else _excluding(unwanted)),
        tuple(sorted(needed - (brought - left_out))),
        tuple(_remarks(wanted, whole)),
    )


def _choice(
    texts: Iterable[str], schemas: Sequence[str], relations: Iterable[_Relation], *, must_match: bool
) -> _Choice:
    choice, known = _Choice(), list(relations)
    for text in texts:
        schema, table = _parsed(text)
        found = False
        if table is None or table == "*":
            pattern = _Pattern(text, schema, None)
            if any(pattern.takes_schema(name) for name in schemas):
                choice.schemas.append(pattern)
                found = True
        if table != "*":
            pattern = _Pattern(text, None, schema) if table is None else _Pattern(text, schema, table)
            if any(pattern.takes(relation) for relation in known):
                choice.tables.append(pattern)
                found = True
        if must_match and not found:
            raise UsageError(
                f"no schema and no table of this database is called {text!r}",
                hint="write SCHEMA, SCHEMA.TABLE or TABLE; * and ? stand for any characters, upper case counts",
            )
    return choice


def databases_of(names: Sequence[str], options: DumpOptions) -> dict[str, DumpOptions]:
    """Returns the databases of a server that the patterns choose, each with what they say about its inside.

    There, a pattern begins with a database: `shop`, `shop.audit`, `shop.audit.log`.
    """
    wanted, unwanted = ([_split(text, most=3) for text in texts] for texts in (options.include, options.exclude))
    for parts, text in zip(wanted, options.include, strict=True):
        if not any(_like(parts[0], name) for name in names):
            raise UsageError(
                f"{text!r} chooses no database of this server",
                hint="write DATABASE, DATABASE.SCHEMA or DATABASE.SCHEMA.TABLE; * and ? stand for any characters",
            )
    chosen: dict[str, DumpOptions] = {}
    for name in names:
        inside, outside = _about(name, wanted), _about(name, unwanted)
        if (wanted and not inside) or "" in outside:
            continue
        include = () if "" in inside else tuple(inside)
        chosen[name] = DumpOptions(include=include, exclude=tuple(outside))
    return chosen


def _about(database: str, patterns: Iterable[list[str]]) -> list[str]:
    """Returns what patterns say about a database: '' for all of it, else what follows its name."""
    return [".".join(parts[1:]) for parts in patterns if _like(parts[0], database)]


def _parsed(text: str) -> tuple[str, str | None]:
    parts = _split(text, most=2)
    return parts[0], parts[1] if len(parts) > 1 else None


def _split(text: str, *, most: int) -> list[str]:
    """Splits at the dots outside of double quotes, which take a name as it is."""
    parts = re.findall(r'(?:"(?:[^"]|"")*"|[^."])+|\.', text)
    names = [part for part in parts if part != "."]
    if not names or "".join(parts) != text or len(names) > most or len(parts) != 2 * len(names) - 1:
        raise UsageError(
            f"{text!r} is not a pattern here",
            hint="write SCHEMA, SCHEMA.TABLE or TABLE, for a whole server DATABASE, DATABASE.SCHEMA or"
            ' DATABASE.SCHEMA.TABLE; a name that holds a dot stands in double quotes: "a.b"',
        )
    return names


def _pieces(pattern: str) -> list[tuple[str, bool]]:
    """Splits a name's pattern into (text, is literal); what stands in quotes is literal."""
    pieces: list[tuple[str, bool]] = []
    for quoted, wild, plain in re.findall(r'"((?:[^"]|"")*)"|([*?])|([^"*?]+)', pattern):
        pieces.append((wild, False) if wild else (quoted.replace('""', '"') or plain, True))
    return pieces


def _like(pattern: str, name: str) -> bool:
    wild = {"*": ".*", "?": "."}
    expression = "".join(re.escape(text) if literal else wild[text] for text, literal in _pieces(pattern))
    return re.fullmatch(expression, name, re.DOTALL) is not None


def _for_pg_dump(pattern: str) -> str:
    """Returns the same in pg_dump's language: there too, what stands in double quotes is literal."""
    return "".join(
        '"' + text.replace('"', '""') + '"' if literal else text for text, literal in _pieces(pattern) if text
    )


def _table_option(pattern: _Pattern) -> str:
    return f"{_for_pg_dump(pattern.schema or '*')}.{_for_pg_dump(pattern.table or '*')}"


def _including(wanted: _Choice, unwanted: _Choice) -> Iterable[str]:
    # pg_dump forgets --schema when there is a --table.
    if wanted.tables:
        yield from (f"--table={_table_option(pattern)}" for pattern in (*wanted.schemas, *wanted.tables))
    else:
        yield from (f"--schema={_for_pg_dump(pattern.schema or '*')}" for pattern in wanted.schemas)
    yield "--extension=*"
    if wanted.tables:
        yield from (f"--exclude-table={_table_option(pattern)}" for pattern in (*unwanted.schemas, *unwanted.tables))
    else:
        yield from _excluding(unwanted)


def _excluding(unwanted: _Choice) -> Iterable[str]:
    yield from (f"--exclude-schema={_for_pg_dump(pattern.schema or '*')}" for pattern in unwanted.schemas)
    yield from (f"--exclude-table={_table_option(pattern)}" for pattern in unwanted.tables)


def _remarks(wanted: _Choice, whole: set[str]) -> Iterable[str]:
    if wanted.tables or wanted.schemas:
        yield "only what was included is in this backup: no large objects, publications or event triggers"
    if wanted.tables and whole:
        yield f"a table was named, so that of schema {', '.join(sorted(whole))} only tables, views and sequences came"


def _refuse_torn(connection: Connection, relations: dict[int, _Relation], chosen: set[int]) -> None:
    torn = [
        f"{relations[who]} needs {relations[whom]}"
        for who, whom in connection.execute(_NEEDS)
        if who in chosen and whom in relations and whom not in chosen
    ]
    _refuse(sorted(torn))


def _refuse_lost_objects(
    connection: Connection, relations: dict[int, _Relation], chosen: set[int], brought: set[str]
) -> None:
    lost = [
        f"{relations[oid]} needs {what.replace(' ', f' {schema}.', 1)}"
        for oid, schema, what in connection.execute(_NEEDS_OBJECTS)
        if oid in chosen and schema not in brought
    ]
    _refuse(sorted(lost))


def _refuse(needs: Sequence[str]) -> None:
    if needs:
        more = f" and {len(needs) - _SHOWN} more" if len(needs) > _SHOWN else ""
        raise UsageError(
            f"the patterns leave out what the rest needs, so that it could not be restored: "
            f"{'; '.join(needs[:_SHOWN])}{more}",
            hint="include what is needed (a whole schema: SCHEMA), or exclude both",
        )
