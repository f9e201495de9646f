"""Primary keys, unique keys and indexes as T-SQL."""

from __future__ import annotations

from collections.abc import Iterator

from dataguardian.engines.sqlserver.catalogue import Catalogue, Row
from dataguardian.engines.sqlserver.server import quoted

HEAP, CLUSTERED, NONCLUSTERED, XML, SPATIAL, CLUSTERED_COLUMNS, NONCLUSTERED_COLUMNS, HASH = range(8)
_SELECTIVE = (2, 3)
"""XML indexes over chosen paths, which no catalogue view tells in full."""
Found = Iterator[tuple[str, list[str]]]


def key_steps(catalogue: Catalogue) -> Found:
    """Yields primary keys and unique keys, the clustered ones first: others are built upon them."""
    names = {(row["parent_object_id"], row.get("unique_index_id")): row["name"] for row in catalogue["key_constraints"]}
    for table, index in _of(catalogue, catalogue.tables):
        if not (index.get("is_primary_key") or index.get("is_unique_constraint")):
            continue
        name = quoted(names.get((index["object_id"], index["index_id"])) or index["name"])
        kind = "PRIMARY KEY" if index.get("is_primary_key") else "UNIQUE"
        cluster = "CLUSTERED" if index["type"] == CLUSTERED else "NONCLUSTERED"
        keys, _ = index_columns(catalogue, index)
        where = catalogue.name(table)
        yield (
            name,
            [f"ALTER TABLE {where} ADD CONSTRAINT {name} {kind} {cluster} ({keys}){_options(catalogue, index)}"]
            + [f"ALTER INDEX {name} ON {where} DISABLE"] * bool(index.get("is_disabled")),
        )


def plain_indexes(catalogue: Catalogue) -> Found:
    """Yields the indexes of tables that are no constraints."""
    for table, index in _of(catalogue, catalogue.tables):
        if index.get("is_primary_key") or index.get("is_unique_constraint"):
            continue
        yield from _index(catalogue, table, index)
    for table in catalogue.tables:
        packed = _packing(catalogue, table["object_id"], HEAP)
        if packed:
            where = catalogue.name(table)
            yield f"{where} (compression)", [f"ALTER TABLE {where} REBUILD WITH (DATA_COMPRESSION = {packed})"]


def view_indexes(catalogue: Catalogue) -> Found:
    for view, index in _of(catalogue, [row for row in catalogue["views"] if catalogue.is_users(row)]):
        yield from _index(catalogue, view, index)


def _of(catalogue: Catalogue, parents: list[Row]) -> Iterator[tuple[Row, Row]]:
    """Yields indexes with what they are of, in the order in which they can be built."""
    indexes = catalogue.grouped("indexes", "object_id")
    order = {CLUSTERED: 0, CLUSTERED_COLUMNS: 0}
    for parent in parents:
        object_id = parent["object_id"]
        found = [row for row in indexes[object_id] if row["type"] != HEAP and not row.get("is_hypothetical")]
        xml = {
            row["index_id"]: row.get("using_xml_index_id") or 0
            for row in catalogue.grouped("xml_indexes", "object_id")[object_id]
        }
        for index in sorted(found, key=lambda row: (order.get(row["type"], 1), bool(xml.get(row["index_id"])))):
            if any((object_id, row["column_id"]) in catalogue.uncarried for row in _parts(catalogue, index)):
                catalogue.warnings.append(
                    f"index {quoted(index['name'])} of {catalogue.name(parent)} has a column that is not in this"
                    " backup, nor is it"
                )
            else:
                yield parent, index


def _parts(catalogue: Catalogue, index: Row) -> list[Row]:
    rows = catalogue.grouped("index_columns", "object_id")[index["object_id"]]
    return [row for row in rows if row["index_id"] == index["index_id"]]


def _index(catalogue: Catalogue, parent: Row, index: Row) -> Found:
    name, where = quoted(index["name"]), catalogue.name(parent)
    create = _create(catalogue, where, index)
    if create is None:
        catalogue.warnings.append(
            f"index {name} of {where} is of the kind {index.get('type_desc') or index['type']}, which is not backed up:"
            " make it again after a restore"
        )
        return
    disable = [f"ALTER INDEX {name} ON {where} DISABLE"] if index.get("is_disabled") else []
    yield f"{where}.{name}", [create, *disable]


def _create(catalogue: Catalogue, where: str, index: Row) -> str | None:
    name, kind = quoted(index["name"]), index["type"]
    keys, included = index_columns(catalogue, index)
    unique = "UNIQUE " if index.get("is_unique") else ""
    condition = f" WHERE {index['filter_definition']}" if index.get("filter_definition") else ""
    if kind in (CLUSTERED, NONCLUSTERED):
        cluster = "CLUSTERED" if kind == CLUSTERED else "NONCLUSTERED"
        extra = f" INCLUDE ({included})" if included else ""
        options = _options(catalogue, index)
        return f"CREATE {unique}{cluster} INDEX {name} ON {where} ({keys}){extra}{condition}{options}"
    if kind == CLUSTERED_COLUMNS:
        order, options = _order(catalogue, index), _options(catalogue, index)
        return f"CREATE CLUSTERED COLUMNSTORE INDEX {name} ON {where}{order}{options}"
    if kind == NONCLUSTERED_COLUMNS:
        columns = f"({included or keys}){_order(catalogue, index)}"
        options = _options(catalogue, index)
        return f"CREATE NONCLUSTERED COLUMNSTORE INDEX {name} ON {where} {columns}{condition}{options}"
    return _xml_index(catalogue, where, index, keys) if kind == XML else None


def _xml_index(catalogue: Catalogue, where: str, index: Row, keys: str) -> str | None:
    found = {row["index_id"]: row for row in catalogue.grouped("xml_indexes", "object_id")[index["object_id"]]}
    row = found.get(index["index_id"], {})
    if row.get("xml_index_type") in _SELECTIVE:
        return None
    keys = keys.replace(" DESC", "")
    primary = found.get(row.get("using_xml_index_id"))
    if primary is None:
        return f"CREATE PRIMARY XML INDEX {quoted(index['name'])} ON {where} ({keys})" if row else None
    return (
        f"CREATE XML INDEX {quoted(index['name'])} ON {where} ({keys})"
        f" USING XML INDEX {quoted(primary['name'])} FOR {row['secondary_type_desc']}"
    )


def index_columns(catalogue: Catalogue, index: Row) -> tuple[str, str]:
    """Returns an index's keys with their direction, and its included columns."""
    rows = _parts(catalogue, index)

    def name(row: Row) -> str:
        return quoted(catalogue.column_name(row["object_id"], row["column_id"]))

    keys = sorted((row for row in rows if row.get("key_ordinal")), key=lambda row: int(row["key_ordinal"]))
    rest = sorted(
        (row for row in rows if not row.get("key_ordinal") and row.get("is_included_column")),
        key=lambda row: int(row["index_column_id"]),
    )
    if index["type"] == XML:
        return ", ".join(name(row) for row in rows), ""
    directed = [name(row) + (" DESC" if row.get("is_descending_key") else "") for row in keys]
    return ", ".join(directed), ", ".join(name(row) for row in rest)


def _options(catalogue: Catalogue, index: Row) -> str:
    """Returns what of an index is not as usual."""
    words = []
    if index.get("fill_factor"):
        words.append(f"FILLFACTOR = {index['fill_factor']}")
    given: dict[str, tuple[str, bool]] = {
        "is_padded": ("PAD_INDEX = ON", True),
        "ignore_dup_key": ("IGNORE_DUP_KEY = ON", True),
        "allow_row_locks": ("ALLOW_ROW_LOCKS = OFF", False),
        "allow_page_locks": ("ALLOW_PAGE_LOCKS = OFF", False),
        "optimize_for_sequential_key": ("OPTIMIZE_FOR_SEQUENTIAL_KEY = ON", True),
    }
    is_rows = index["type"] in (CLUSTERED, NONCLUSTERED)
    words += [word for key, (word, value) in given.items() if is_rows and index.get(key) in (value, int(value))]
    if index.get("compression_delay"):
        words.append(f"COMPRESSION_DELAY = {index['compression_delay']}")
    if packed := _packing(catalogue, index["object_id"], index["index_id"]):
        words.append(f"DATA_COMPRESSION = {packed}")
    return f" WITH ({', '.join(words)})" if words else ""


def _packing(catalogue: Catalogue, object_id: int, index_id: int) -> str | None:
    """Returns how an index, or a table without one, is compressed, where all its partitions are the same way."""
    rows = [row for row in catalogue.grouped("partitions", "object_id")[object_id] if row.get("index_id") == index_id]
    found = {str(row.get("data_compression_desc")) for row in rows} & {"ROW", "PAGE", "COLUMNSTORE_ARCHIVE"}
    return found.pop() if len(found) == 1 else None


def _order(catalogue: Catalogue, index: Row) -> str:
    """Returns by what a columnstore's rows are ordered (SQL Server 2022)."""
    rows = [row for row in _parts(catalogue, index) if row.get("column_store_order_ordinal")]
    rows.sort(key=lambda row: int(row["column_store_order_ordinal"]))
    names = [quoted(catalogue.column_name(row["object_id"], row["column_id"])) for row in rows]
    return f" ORDER ({', '.join(names)})" if names else ""
