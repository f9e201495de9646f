"""SQL Server: dumps of a peer that reads, dumps and restores of a double that also writes, and sqlpackage."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import cast
from urllib.parse import quote

import pytds
import pytds.tds_types as wire_types
import pytest

from dataguardian.domain.errors import (
    DamagedPartError,
    DumpFailedError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    RestoreFailedError,
    TargetInUseError,
    TargetNotEmptyError,
    UnreachableError,
    UsageError,
)
from dataguardian.domain.urls import parse_url
from dataguardian.engines.base import DumpOptions
from dataguardian.engines.registry import engine_config
from dataguardian.engines.sqlserver import checking
from dataguardian.engines.sqlserver.config import SqlServerConfig
from dataguardian.engines.sqlserver.decimals import full_columns, full_rows
from dataguardian.engines.sqlserver.server import Server
from dataguardian.engines.sqlserver.sqlpackage import staging_folder, write_file
from dataguardian.engines.sqlserver.stream import read_records
from dataguardian.engines.sqlserver.types import Cursor, read_type
from dataguardian.engines.sqlserver.values import decode_row
from tests.cli.program import Program
from tests.engines.conformance import Kept, closed_port, dump, engine_at, restore, silent_port, validate
from tests.engines.sqlserver_double import PASSWORD, Database, Fault, Table, TdsDouble, tds_double
from tests.engines.sqlserver_sample import everything
from tests.servers import free_port

PEER_PASSWORD = "pass'w\"or=d/@:#%&\\"
"""The peer cannot compare others than ASCII."""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A pysqlbridge with two tables; yields its address."""
    folder = tmp_path_factory.mktemp("bridge")
    rows = "".join(f"{n},name {n} ü,{n / 3}\n" for n in range(20_000))
    (folder / "people.csv").write_text("id,name,score\n" + rows, encoding="utf-8")
    (folder / "odd ]name.csv").write_text("a b,c]\n1,'x'\n", encoding="utf-8")
    tables = [{"name": "people", "csv": "people.csv"}, {"name": "odd ]name", "csv": "odd ]name.csv"}]
    login = {"user": "reader", "password": "${env:BRIDGE_PASSWORD}"}
    (folder / "config.json").write_text(json.dumps({"tables": tables, "logins": [login]}))
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "pysqlbridge.server", "--config", str(folder / "config.json"), "--port", str(port)],
        env={**os.environ, "BRIDGE_PASSWORD": PEER_PASSWORD},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"sqlserver://reader:{quote(PEER_PASSWORD, safe='')}@127.0.0.1:{port}/pysqlbridge"
    limit = time.monotonic() + 30
    while engine_at(address).check().status != "ok":
        assert process.poll() is None
        assert time.monotonic() < limit, engine_at(address).check()
        time.sleep(0.1)
    yield address
    process.send_signal(signal.SIGTERM)
    process.wait(10)


@pytest.fixture
def double() -> Iterator[TdsDouble]:
    with tds_double() as server:
        yield server


def sqlserver_at(address: str) -> Server:
    return Server(cast("SqlServerConfig", engine_config(parse_url(address))))


def address_of(double: TdsDouble, database: str = "", *, password: str = PASSWORD, query: str = "") -> str:
    where = f"127.0.0.1:{double.port}/{quote(database, safe='')}"
    return f"mssql://sa:{quote(password, safe='')}@{where}?method=tds{query}"


@pytest.fixture
def source(double: TdsDouble) -> Database:
    """One of everything, with rows that python-tds wrote."""
    made = double.databases["source"] = everything()
    rows = {
        "[shop]]].[people]": (
            [wire_types.IntType(), wire_types.NVarCharType(50), wire_types.NVarCharType(30)],
            [(10, "Åse '😀'", "1"), (15, None, "2"), (30, "x" * 50, "3")],
        ),
        "[shop]]].[orders]": (
            [wire_types.IntType(), wire_types.DecimalType(38, 10)],
            [(n, n * 3) for n in range(5000)],
        ),
        "[dbo].[files]": (
            [wire_types.NVarCharMaxType(), wire_types.VarBinaryMaxType()],
            [("<a> <b/></a>", b"\x58"), ("<big>" + "y" * 900_000 + "</big>", None)],
        ),
    }
    double.databases["loading"] = Database()
    for name, (kinds, values) in rows.items():
        table = double.databases["loading"].tables["[dbo].[t]"] = Table()
        with (
            pytds.connect(
                dsn="127.0.0.1", port=double.port, user="sa", password=PASSWORD, database="loading", autocommit=True
            ) as connection,
            connection.cursor() as cursor,
        ):
            columns = [pytds.Column(f"c{number}", type=kind) for number, kind in enumerate(kinds)]
            cursor.copy_to(data=values, table_or_view="t", schema="dbo", columns=columns)
        made.tables[name] = table
    del double.databases["loading"]
    return made


def statements(stream: Kept) -> list[str]:
    """Returns the stream's batches in order, and `<table> n` where a table's rows are."""
    found = []
    for kind, payload in read_records(stream.chunks()):
        if kind == b"S":
            found += json.loads(payload)["batches"]
        elif kind == b"E":
            found.append(f"<rows> {json.loads(payload)['rows']}")
    return found


# A peer that reads.


def test_a_peer_is_dumped(peer: str) -> None:
    """Schema and rows of a server that is not ours, over TLS; what it does not tell is a warning."""
    [stream] = dump(peer)
    validate("sqlserver", stream)
    text = "\n".join(checking.script(stream.chunks()))
    assert "CREATE TABLE [dbo].[people] (\n  [id] int NULL,\n  [name] nvarchar(" in text
    assert "(19999, N'name 19999 ü', 6666.333333333333e0)" in text
    assert "INSERT INTO [dbo].[odd ]]name] ([a b], [c]]]) VALUES\n(1, N'''x''')" in text
    assert any("snapshot isolation" in warning for warning in stream.warnings)
    assert any(warning.startswith("sys.sequences cannot be read") for warning in stream.warnings)
    assert engine_at(peer).inventory().items == {"pysqlbridge.dbo.people": 20_000, "pysqlbridge.dbo.odd ]name": 1}


def test_a_peer_by_the_command_line(peer: str, tmp_path: Path) -> None:
    """Backup, list and deep verification by the program, with the password from a file and nowhere to be seen."""
    program = Program(tmp_path)
    (tmp_path / "password").write_text(PEER_PASSWORD, encoding="utf-8")
    bare = peer.replace(f":{quote(PEER_PASSWORD, safe='')}@", "@")
    said = ""

    def run(*arguments: str) -> None:
        nonlocal said
        outcome = program.run(*arguments)
        assert outcome.code == 0, outcome
        said += outcome.out + outcome.err

    run("backup", bare, program.storage, "--password-file", str(tmp_path / "password"))
    run("list", program.storage)
    [manifest] = (tmp_path / "storage").rglob("manifest.json")
    run("verify", "--deep", f"{program.storage}/{manifest.parent.relative_to(tmp_path / 'storage')}")
    kept = b"".join(path.read_bytes() for path in (tmp_path / "storage").rglob("*.json*"))
    assert PEER_PASSWORD not in said
    assert PEER_PASSWORD.encode() not in kept
    assert b"sqlserver" in kept


def test_probes_tell_failures_apart(peer: str) -> None:
    """Healthy, refused, not there, silent, no such database: each is told as what it is, in time."""
    healthy = engine_at(peer).check()
    assert (healthy.status, healthy.metadata["version"][0].isdigit()) == ("ok", True)
    wrong = peer.replace(quote(PEER_PASSWORD, safe=""), "wrong")
    assert engine_at(wrong).check().status == "auth_failed"
    port = peer.rpartition(":")[2].partition("/")[0]
    assert engine_at(peer.replace(port, str(closed_port()))).check().status == "unreachable"
    assert engine_at(peer.replace("/pysqlbridge", "/nowhere")).check().status == "error"
    with pytest.raises(NotFoundError):
        dump(peer.replace("/pysqlbridge", "/nowhere"))
    with silent_port() as silent:
        began = time.monotonic()
        assert engine_at(peer.replace(port, str(silent))).check().status == "timeout"
        assert time.monotonic() - began < 10


def test_a_certificate_that_nobody_signed(peer: str) -> None:
    """verify-full refuses the peer's own certificate; require takes it."""
    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        dump(f"{peer}?ssl_mode=verify-full")
    assert engine_at(f"{peer}?ssl_mode=require").check().status == "ok"


# The schema.


def test_everything_becomes_statements(double: TdsDouble, source: Database) -> None:
    """One of every kind of object is written in an order that works, and what is not carried is said."""
    [stream] = dump(address_of(double, "source"))
    assert stream.metadata["snapshot"] is True
    found = statements(stream)
    expected = (Path(__file__).parent / "sqlserver_expected.sql").read_text(encoding="utf-8")
    assert "\nGO\n".join([*found, ""]) == expected
    said = "\n".join(stream.warnings)
    for words in (
        "[secret] is encrypted",
        "was renamed; its text says [old_name]",
        "index [geo] of [shop]]].[people] is of the kind SPATIAL",
        "rowversion values itself",
        "1 users and roles",
    ):
        assert words in said, said


def test_no_snapshot_is_said(double: TdsDouble, source: Database) -> None:
    """A database that refuses snapshot isolation is dumped all the same, and the backup says what that means."""
    double.faults.append(fault := Fault("SET TRANSACTION ISOLATION LEVEL SNAPSHOT", 3952))
    [stream] = dump(address_of(double, "source"))
    assert fault.fired == 1
    assert stream.metadata["snapshot"] is False
    assert any("ALLOW_SNAPSHOT_ISOLATION" in warning for warning in stream.warnings)


def test_a_transaction_that_did_not_last(double: TdsDouble, source: Database) -> None:
    """When the server ended the transaction in between, the tables need not fit together: no such backup exists."""
    double.depth = 0
    with pytest.raises(DumpFailedError, match="ended the dump's transaction"):
        dump(address_of(double, "source"))


def test_a_privilege_that_is_missing_is_named(double: TdsDouble, source: Database) -> None:
    """A table that this login may not read makes the dump fail, with the table's name and what to grant."""
    double.faults.append(fault := Fault(r"SELECT \[owner\]", 229, "The SELECT permission was denied on 'orders'."))
    with pytest.raises(NotAllowedError, match="orders"):
        dump(address_of(double, "source"))
    assert fault.fired == 1


# Restores.


def test_a_restore_into_a_new_database(double: TdsDouble, source: Database) -> None:
    """Every row arrives as the bytes it was, xml by way of a staging table, and nothing stands beside."""
    streams = dump(address_of(double, "source"))
    validate("sqlserver", streams[0])
    assert restore(address_of(double, "copy"), streams) == []
    assert set(double.databases) == {"master", "source", "copy"}
    copy = double.databases["copy"]
    assert {name: table.rows for name, table in copy.tables.items()} == {
        name: table.rows for name, table in source.tables.items()
    }
    said = "\n".join(copy.batches)
    assert "INSERT BULK [shop]]].[people] ([id] int, [na'me]]] nvarchar(50), [phone] nvarchar(30)) WITH" in said
    assert "SELECT CONVERT(xml, [body], 1), CAST([place] AS hierarchyid) FROM [dbo].[dataguardian_stage]" in said
    assert said.index("SET IDENTITY_INSERT [shop]]].[people] ON") < said.index("INSERT BULK [shop]]].[people]")
    assert said.rindex("INSERT BULK") < said.index("ADD CONSTRAINT") < said.index("CREATE TRIGGER")


def test_replacing_a_database(double: TdsDouble, source: Database) -> None:
    """The old database is there under its name until the new one takes it, and goes last."""
    streams = dump(address_of(double, "source"))
    target = double.databases["target"] = Database(tables={"[dbo].[old]": Table()}, views={"objects": []})
    with pytest.raises(TargetNotEmptyError) as caught:
        restore(address_of(double, "target"), streams)
    assert caught.value.hint
    assert double.databases["target"] is target
    restore(address_of(double, "target"), streams, drop_existing=True)
    assert "[dbo].[old]" not in double.databases["target"].tables
    assert set(double.databases) == {"master", "source", "target"}
    order = [
        batch for batch in double.databases["master"].batches if "MODIFY NAME" in batch or "DROP DATABASE" in batch
    ]
    assert [
        "_dgold_" in order[-3],
        order[-2].endswith("= [target]"),
        order[-1].startswith("DROP DATABASE [target_dgold_"),
    ]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("INSERT BULK", 0), UnreachableError),
        (Fault("CREATE TABLE .*orders", 2715, "no such type"), RestoreFailedError),
        (Fault("FOREIGN KEY", 547, "conflicted"), RestoreFailedError),
        (Fault("CREATE DATABASE", 262, "permission denied", times=9), NotAllowedError),
        (Fault(r"MODIFY NAME = \[target\]", 5030, "in use", times=4), TargetInUseError),
    ],
    ids=["connection", "table", "foreign key", "create", "rename"],
)  # fmt: skip
def test_a_restore_that_fails(double: TdsDouble, source: Database, fault: Fault, error: type[Exception]) -> None:
    """Whatever goes wrong, the target holds what it held, under its name, and nothing is left beside it."""
    streams = dump(address_of(double, "source"))
    target = double.databases["target"] = Database(tables={"[dbo].[old]": Table()}, views={"objects": []})
    double.faults.append(fault)
    with pytest.raises(error):
        restore(address_of(double, "target"), streams, drop_existing=True)
    assert fault.fired
    assert double.databases["target"] is target
    assert set(double.databases) == {"master", "source", "target"}


@pytest.mark.parametrize("place", [0, 1, 3])
def test_damage_on_the_way_back(double: TdsDouble, source: Database, place: int) -> None:
    """A part that turns out damaged ends the restore, and the server keeps nothing of it."""
    [stream] = dump(address_of(double, "source"))
    stream.damaged_after = place
    with pytest.raises(DamagedPartError):
        restore(address_of(double, "copy"), [stream])
    assert set(double.databases) == {"master", "source"}


def test_rows_that_a_server_loses(double: TdsDouble, source: Database) -> None:
    """A table that holds fewer rows than it was sent is found out."""
    streams = dump(address_of(double, "source"))
    double.lossy = True
    with pytest.raises(RestoreFailedError, match="rows instead of"):
        restore(address_of(double, "copy"), streams)
    assert set(double.databases) == {"master", "source"}


def test_a_server_without_bulk_loading(double: TdsDouble, source: Database) -> None:
    """Where INSERT BULK is refused, rows come by INSERT, and the restore says so."""
    streams = dump(address_of(double, "source"))
    double.faults.append(fault := Fault("INSERT BULK", 156, "Incorrect syntax near BULK", times=99))
    warnings = restore(address_of(double, "copy"), streams)
    assert fault.fired == 3
    assert sum("was loaded by INSERT statements" in warning for warning in warnings) == 3
    rows = double.databases["copy"].tables["[shop]]].[people]"].rows
    assert rows[0].decode().rstrip(",") == "(10, N'Åse ''😀''', N'1')"


def test_a_view_that_is_not_valid_does_not_cost_the_rows(double: TdsDouble, source: Database) -> None:
    """A program that cannot be made is tried again at the end, and then named."""
    streams = dump(address_of(double, "source"))
    double.faults.append(fault := Fault("CREATE VIEW .*a_upper", 208, "Invalid object name 'gone'", times=9))
    [warning] = restore(address_of(double, "copy"), streams)
    assert fault.fired == 2
    assert "view [shop]]].[a_upper] could not be made: Invalid object name 'gone'" in warning


def test_a_server_that_cannot_rename(double: TdsDouble, source: Database) -> None:
    """Then a new database is built under its own name, and one that exists is refused rather than touched."""
    streams = dump(address_of(double, "source"))
    double.faults.append(Fault("MODIFY NAME|sp_renamedb", 102, "Incorrect syntax", times=99))
    restore(address_of(double, "copy"), streams)
    assert set(double.databases) == {"master", "source", "copy"}
    with pytest.raises(RestoreFailedError, match="cannot rename"):
        restore(address_of(double, "copy"), streams, drop_existing=True)
    assert set(double.databases) == {"master", "source", "copy"}
    assert double.databases["copy"].tables


def test_a_server_that_forgets_at_a_rename(double: TdsDouble, source: Database) -> None:
    """On Babelfish a new database is built under its own name, its decimals in full; when one is replaced, programs are
    made again, and those that cannot be are named.
    """
    double.is_babelfish = True
    streams = dump(address_of(double, "source"))
    assert restore(address_of(double, "copy"), streams) == []
    assert not any("MODIFY NAME" in batch for batch in double.databases["master"].batches)
    orders, copied = (double.databases[name].tables["[shop]]].[orders]"] for name in ("source", "copy"))
    assert copied.columns[1].info == bytes([orders.columns[1].type, 17, 38, 10])
    for before, after in zip(orders.rows, copied.rows, strict=True):
        values = decode_row(before, 1, orders.columns)[0]
        assert decode_row(after, 1, copied.columns) == (values, len(after))
        assert after[6] == 17
    double.databases["copy"].batches.clear()
    assert restore(address_of(double, "copy"), streams, drop_existing=True) == []
    again = double.databases["copy"].batches[-20:]
    place = again.index("DROP TRIGGER [shop]]].[on_people]")
    assert again[place - 1 :][:5] == [
        "BEGIN TRANSACTION",
        "DROP TRIGGER [shop]]].[on_people]",
        "SET ANSI_NULLS ON",
        "SET QUOTED_IDENTIFIER OFF",
        "CREATE TRIGGER [shop]]].[on_people] ON [shop]]].[people] AFTER INSERT AS RETURN",
    ]
    assert "COMMIT TRANSACTION" in again[place:]
    double.faults.append(Fault(r"DROP FUNCTION \[shop\]\]\]\.\[double\]", 3729, "other objects depend on it", times=9))
    [warning] = restore(address_of(double, "copy"), streams, drop_existing=True)
    assert "built upon: [shop]]].[double] work" in warning


def test_decimals_in_full() -> None:
    """Short decimals get all their bytes, NULL and other types stay, and rows that come in pieces come out whole."""
    columns = [read_type(Cursor(bytes.fromhex(info))) for info in ("6a050902", "2604", "6c091302")]
    rows = b"\xd1\x05\x01\x07\0\0\0\x04\x01\0\0\0\x09\0\x08\0\0\0\0\0\0\0" + b"\xd1\0\0\0"
    wanted = b"\xd1\x11\x01\x07" + bytes(15) + b"\x04\x01\0\0\0\x11\0\x08" + bytes(15) + b"\xd1\0\0\0"
    for size in (1, 9, 100):
        pieces = [rows[offset : offset + size] for offset in range(0, len(rows), size)]
        assert b"".join(full_rows(pieces, columns)) == wanted
    assert [column.info.hex() for column in full_columns(columns)] == ["6a110902", "", "6c111302"]


def test_a_drop_that_is_disturbed(double: TdsDouble, source: Database) -> None:
    """Another session's work at the wrong moment leaves no database behind."""
    streams = dump(address_of(double, "source"))
    double.faults.append(fault := Fault("DROP DATABASE .*_dgold_", 1205, "deadlock victim"))
    double.databases["target"] = Database(tables={"[dbo].[old]": Table()}, views={"objects": []})
    assert restore(address_of(double, "target"), streams, drop_existing=True) == []
    assert fault.fired == 1
    assert set(double.databases) == {"master", "source", "target"}


def test_a_target_that_somebody_is_just_leaving(double: TdsDouble, source: Database) -> None:
    """A database in use when it is to be renamed is waited for a moment, not given up."""
    streams = dump(address_of(double, "source"))
    double.faults.append(
        fault := Fault(r"MODIFY NAME = \[target_dgold_|sp_renamedb N'target'", 5030, "in use", times=2)
    )
    double.databases["target"] = Database(tables={"[dbo].[old]": Table()}, views={"objects": []})
    assert restore(address_of(double, "target"), streams, drop_existing=True) == []
    assert fault.fired == 2


@pytest.mark.parametrize("others", [0, 10])
def test_sessions_that_babelfish_counts(double: TdsDouble, source: Database, others: int) -> None:
    """Before a rename the target's sessions are ended, and the places of those that ended are taken, seen or not."""
    double.is_babelfish = True
    streams = dump(address_of(double, "source"))
    double.databases["target"] = Database(tables={"[dbo].[old]": Table()}, views={"objects": []})
    target, elsewhere = (sqlserver_at(address_of(double, name)) for name in ("target", "master"))
    with ExitStack() as alive:
        stays = alive.enter_context(target.connect("target"))
        with ExitStack() as leaving:
            for server, name in [(elsewhere, "master")] * others + [(target, "target")] * 3:
                leaving.enter_context(server.connect(name))
        assert restore(address_of(double, "target"), streams, drop_existing=True) == []
        with pytest.raises(OSError, match="closed"):
            stays.run("SELECT 1")
    assert "[dbo].[old]" not in double.databases["target"].tables
    assert set(double.databases) == {"master", "source", "target"}


def test_a_server_that_ends_between_two_databases(double: TdsDouble, source: Database) -> None:
    """When the second of two cannot take its name, neither it nor what comes after it stays beside."""
    for name in ("a", "b", "c"):
        double.databases[name] = source
    streams = [stream for stream in dump(address_of(double)) if stream.name != "source"]
    double.faults.append(Fault(r"MODIFY NAME = \[b\]", 102, "refused", times=9))
    double.faults.append(Fault(r"MODIFY NAME = \[b_dgold|sp_renamedb N'b'", 102, "refused", times=9))
    with pytest.raises(RestoreFailedError, match=r"database 'b' at .*: refused"):
        restore(address_of(double), streams, drop_existing=True)
    assert set(double.databases) == {"master", "source", "a", "b", "c"}
    assert double.databases["a"] is not source
    assert (double.databases["b"], double.databases["c"]) == (source, source)


def test_a_name_that_cannot_be_given_back(double: TdsDouble, source: Database) -> None:
    """Then the error says under which name the old content is."""
    streams = dump(address_of(double, "source"))
    double.databases["target"] = Database(tables={"[dbo].[old]": Table()}, views={"objects": []})
    double.faults.append(Fault(r"MODIFY NAME = \[target\]|sp_renamedb .*N'target'$", 102, "refused", times=99))
    with pytest.raises(RestoreFailedError) as caught:
        restore(address_of(double, "target"), streams, drop_existing=True)
    [old] = set(double.databases) - {"master", "source"}
    assert old.startswith("target_dgold_")
    assert f"database 'target' is there as {old!r}" in "".join(caught.value.__notes__)


def test_settings_that_cannot_be_given_back(double: TdsDouble, source: Database) -> None:
    """A compatibility level that the target does not know is told; one that it has already is not asked for."""
    [stream] = dump(address_of(double, "source"))
    stream.metadata["options"] |= {"compatibility_level": 170, "snapshot_isolation_state": 1}
    double.faults.append(fault := Fault("COMPATIBILITY_LEVEL = 170", 15048, "Valid values are 100 to 160."))
    [warning] = restore(address_of(double, "copy"), [stream])
    assert "COMPATIBILITY_LEVEL = 170 could not be given back: Valid values" in warning
    assert fault.fired == 1
    assert not any("ALLOW_SNAPSHOT" in batch for batch in double.databases["master"].batches)


def test_a_whole_server(double: TdsDouble, source: Database) -> None:
    """An address without a database is every one of the users', one stream each."""
    double.databases["sec ond"] = Database(views=dict(source.views) | {"tables": [], "views": [], "objects": []})
    streams = dump(address_of(double))
    assert [stream.name for stream in streams] == ["sec ond", "source"]
    assert any("logins, jobs" in warning for warning in streams[0].warnings)
    with pytest.raises(UsageError):
        restore(address_of(double, "one"), streams)
    restore(address_of(double), streams, drop_existing=True)
    assert set(double.databases) == {"master", "source", "sec ond"}


def test_named_databases_of_a_server(double: TdsDouble, source: Database) -> None:
    """Only those that are named; one that is not there ends it, and those that are there are told."""
    double.databases["sec ond"] = Database(views=dict(source.views) | {"tables": [], "views": [], "objects": []})
    assert [one.name for one in dump(address_of(double), DumpOptions(streams=("sec ond",)))] == ["sec ond"]
    with pytest.raises(NotFoundError, match=r"no database 'sec\*' to back up; it has 'sec ond', 'source'"):
        dump(address_of(double), DumpOptions(streams=("source", "sec*")))


def test_a_session_by_hand(double: TdsDouble, source: Database) -> None:
    """The stream becomes a script for sqlcmd by the command that the manifest names."""
    [stream] = dump(address_of(double, "source"))
    program = [sys.executable, "-m", "dataguardian.engines.sqlserver"]
    done = subprocess.run(program, input=stream.data, capture_output=True, check=True)
    text = done.stdout.decode()
    assert text.count("\nGO\n") > 30
    assert "(4999, 14997.0000000000)" in text
    done = subprocess.run(program, input=stream.data[:-3], capture_output=True, check=False)
    assert (done.returncode, b"ends before its end" in done.stderr) == (3, True)


def test_streams_that_are_not_whole(double: TdsDouble, source: Database) -> None:
    """A stream that was cut anywhere, or in which a byte of its frame changed, is found out."""
    [stream] = dump(address_of(double, "source"))
    whole = stream.data
    for cut in (0, 4, 8, 9, len(whole) // 2, len(whole) - 1):
        stream.data = whole[:cut]
        with pytest.raises(IntegrityError):
            validate("sqlserver", stream)
    for changed in (b"X" + whole[1:], whole[:8] + b"Q" + whole[9:], whole + b"Z"):
        stream.data = changed
        with pytest.raises(IntegrityError):
            validate("sqlserver", stream)


# sqlpackage.

STAND_IN = """#!{python}
import os, sys, time, zipfile
if len(sys.argv) < 2 or not sys.argv[1].startswith("@"):
    print("170.0.94.3")
    raise SystemExit(0)
path = sys.argv[1][1:]
assert os.stat(path).st_mode & 0o777 == 0o600
lines = [line.strip('"') for line in open(path, encoding="utf-8").read().splitlines()]
given = dict(line[1:].split(":", 1) for line in lines)
open({log!r}, "a").write(repr((sys.argv, given)) + "\\n")
if given.get("SourceDatabaseName") == "broken":
    print("*** Error exporting database: login " + given["SourcePassword"])
    raise SystemExit(1)
if given["Action"] == "Export":
    with zipfile.ZipFile(given["TargetFile"], "w") as archive:
        for name in ("model.xml", "Origin.xml", "Data/t.BCP"):
            archive.writestr(name, name * 1000)
"""


@pytest.fixture
def sqlpackage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that does what sqlpackage's documentation says of its arguments; returns its log."""
    folder, staging = tmp_path / "bin", tmp_path / "staging"
    folder.mkdir()
    staging.mkdir()
    program = folder / "sqlpackage"
    program.write_text(STAND_IN.format(python=sys.executable, log=str(tmp_path / "log")))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("DATAGUARDIAN_STAGING_DIR", str(staging))
    return tmp_path / "log"


def test_sqlpackage_is_used_where_it_is(double: TdsDouble, source: Database, sqlpackage: Path) -> None:
    """Its file is staged for this user alone, checked, streamed and removed; no password is in its command line."""
    double.logins["sa"] = "plain password"
    address = address_of(double, "source", password="plain password").replace("?method=tds", "")
    engine = engine_at(address)
    [stream] = dump(address)
    assert stream.kind == "bacpac"
    assert zipfile.ZipFile(BytesIO(stream.data)).namelist()[0] == "model.xml"
    validate("sqlserver", stream)
    log = sqlpackage.read_text()
    command, _, given = log.partition("], {")
    assert "plain password" not in command
    assert "'SourcePassword': 'plain password'" in given
    assert list((sqlpackage.parent / "staging").iterdir()) == []
    assert any("point in time" in warning for warning in stream.warnings)
    for context in engine.dump(DumpOptions()):
        context.__enter__()
        context.__exit__(None, None, None)
    assert [(tool.name, tool.version) for tool in engine.tools] == [("sqlpackage", "170.0.94.3")]
    stream.data = stream.data[:-10]
    with pytest.raises(IntegrityError):
        validate("sqlserver", stream)


def test_sqlpackage_that_fails(double: TdsDouble, source: Database, sqlpackage: Path) -> None:
    """An exit code that is not 0 is a failed backup, whose text has no password and whose file is gone."""
    double.databases["broken"] = source
    double.logins["sa"] = "plain password"
    with pytest.raises(DumpFailedError, match="ended with code 1") as caught:
        dump(address_of(double, "broken", password="plain password").replace("tds", "sqlpackage"))
    assert "plain password" not in str(caught.value)
    assert list((sqlpackage.parent / "staging").iterdir()) == []


def test_the_staging_folder_is_private(sqlpackage: Path) -> None:
    """Nobody else may read what is staged."""
    with staging_folder() as folder:
        write_file(folder / "x", [b"1"])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "x").stat().st_mode) == 0o600
    assert not folder.exists()
