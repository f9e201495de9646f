from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataguardian.domain.errors import (
    AuthenticationError,
    DataGuardianError,
    DumpFailedError,
    IntegrityError,
    RestoreFailedError,
    TargetInUseError,
    UsageError,
)
from dataguardian.domain.urls import parse_url
from dataguardian.engines.base import DumpOptions, RestoreOptions
from dataguardian.engines.mysql import restore as restoring
from dataguardian.engines.mysql import validate
from dataguardian.engines.mysql.config import MysqlConfig, client_arguments
from dataguardian.engines.mysql.dump import dump_options
from dataguardian.engines.mysql.grants import Grants
from dataguardian.engines.mysql.load import nearest_collation, renamed
from dataguardian.engines.mysql.statements import Splitter
from dataguardian.engines.mysql.tools import DumpProgram
from dataguardian.engines.network import Endpoint
from tests.conftest import require_tool
from tests.engines.conformance import Kept, dump, engine_at, restore
from tests.engines.mysql_tools import build_everything, content_of
from tests.mariadb import MariadbServer, mariadb_server

SIMPLE = ("CREATE TABLE t (id INT PRIMARY KEY, x TEXT)", "INSERT INTO t VALUES (1, 'a')")


def script(*lines: str) -> Kept:
    """A dump that some other program, or somebody, wrote."""
    text = "\n".join([*lines, "-- Dump completed", ""])
    return Kept("shop", "sql", text.encode(), {"database": "shop", "collation": "utf8mb4_general_ci"})


def leftovers(server: MariadbServer) -> set[str]:
    return {name for name in server.databases() if name.startswith("dataguardian_")}


def test_by_hand(mariadb: MariadbServer) -> None:
    """The manifest's line and the stock client bring back one of everything, under the same name."""
    name = build_everything(mariadb)
    before = content_of(mariadb, name)
    for context in engine_at(mariadb.url(name)).dump(DumpOptions()):
        with context as stream:
            command = stream.restore_by_hand[0]
    (kept,) = dump(mariadb.url(name))
    assert b"sandbox" not in kept.data[:200]
    mariadb.execute(None, f"DROP DATABASE {name}")
    mariadb.shell(command, kept.data)
    assert content_of(mariadb, name) == before


def test_a_whole_server(mariadb: MariadbServer) -> None:
    """Every database, user, role and grant moves to another server; what is there already stays as it is."""
    name = mariadb.database(*SIMPLE, name="whole `server`")
    mariadb.execute(
        None,
        "CREATE ROLE readers",
        "CREATE USER 'o''dd'@'10.%' IDENTIFIED BY 'sec ret' REQUIRE SSL WITH MAX_USER_CONNECTIONS 7",
        "CREATE USER plain@localhost IDENTIFIED VIA unix_socket",
        "GRANT SELECT ON `whole ``server```.* TO readers",
        "GRANT readers TO 'o''dd'@'10.%'",
        "SET DEFAULT ROLE readers FOR 'o''dd'@'10.%'",
        "GRANT UPDATE (x), INSERT ON `whole ``server```.t TO plain@localhost WITH GRANT OPTION",
    )
    streams = dump(mariadb.url())
    assert [stream.kind for stream in streams][:2] == ["grants", "sql"]
    assert name in {stream.name for stream in streams}
    for stream in streams:
        validate(stream.kind, stream.metadata, stream.chunks())
    accounts = ("readers", "'o''dd'@'10.%'", "plain@localhost")
    with mariadb_server() as other:
        warnings = restore(other.url(), streams)
        assert any("root@localhost exists" in warning for warning in warnings)
        assert content_of(other, name) == content_of(mariadb, name)
        for account in accounts:
            grants = [server.execute(None, f"SHOW GRANTS FOR {account}") for server in (mariadb, other)]
            assert grants[0] == grants[1]
        other.execute(None, f"DROP DATABASE `{name.replace('`', '``')}`", *(f"DROP USER {one}" for one in accounts[1:]))
        streams[-1].data = streams[-1].data[:-100]
        before = other.execute(None, "SELECT User, Host FROM mysql.user")
        with pytest.raises(DataGuardianError):
            restore(other.url(), streams, drop_existing=True)
        assert other.execute(None, "SELECT User, Host FROM mysql.user") == before
        assert name not in other.databases()


def test_the_statement_that_fails_is_named(mariadb: MariadbServer) -> None:
    """An error tells the line and the statement's head, and no row of it; the target is as it was."""
    name = mariadb.database(*SIMPLE)
    before = content_of(mariadb, name)
    bad = script("CREATE TABLE `t` (a INT PRIMARY KEY);", "INSERT INTO `t` VALUES (1),", "('my secret'),(1);")
    with pytest.raises(RestoreFailedError) as caught:
        restore(mariadb.url(name), [bad], drop_existing=True)
    assert "line 2" in caught.value.message
    assert "INSERT INTO `t`" in caught.value.message
    assert "my secret" not in caught.value.message
    assert content_of(mariadb, name) == before
    assert leftovers(mariadb) == set()


@pytest.mark.parametrize(
    "lines",
    [
        ["USE mysql;"],
        ["CREATE TABLE t (a INT);", "GRANT ALL ON *.* TO evil;"],
        ["\\! touch /tmp/evil"],
        ["CREATE TABLE t (a INT)"],
    ],
)
def test_what_no_dump_holds(mariadb: MariadbServer, lines: list[str]) -> None:
    """A script that leads elsewhere, runs a client's commands or stops within a statement is not restored."""
    with pytest.raises(IntegrityError):
        restore(mariadb.url("never_made"), [script(*lines)])
    assert not {"never_made"} & mariadb.databases()
    assert leftovers(mariadb) == set()


def test_somebody_holds_a_table(mariadb: MariadbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the swap cannot have a table, everything that was taken down is put up again."""
    name, source = build_everything(mariadb), mariadb.database(*SIMPLE)
    before, streams = content_of(mariadb, name), dump(mariadb.url(source))
    monkeypatch.setattr(restoring, "_SWAP_WAIT_SECONDS", 1)
    with mariadb.connect(name, autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT * FROM hen")
        with pytest.raises(TargetInUseError) as caught:
            restore(mariadb.url(name), streams, drop_existing=True)
        holder.rollback()
    assert getattr(caught.value, "__notes__", []) == []
    assert content_of(mariadb, name) == before
    assert leftovers(mariadb) == set()


def test_the_server_refuses_after_the_move(mariadb: MariadbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error after the tables were moved moves them back."""
    name, source = build_everything(mariadb), mariadb.database(*SIMPLE, "CREATE VIEW v AS SELECT * FROM t")
    before, streams = content_of(mariadb, name), dump(mariadb.url(source))
    fired = []

    def mend(self: Any, session: Any, target: str) -> None:
        fired.append(target)
        raise RestoreFailedError("told to fail")

    monkeypatch.setattr(restoring.References, "mend", mend)
    with pytest.raises(RestoreFailedError, match="told to fail"):
        restore(mariadb.url(name), streams, drop_existing=True)
    assert fired == [name]
    assert content_of(mariadb, name) == before
    assert leftovers(mariadb) == set()


def test_a_foreign_key_from_elsewhere(mariadb: MariadbServer) -> None:
    """A database that another one's tables refer to is not replaced: their keys would follow the old tables."""
    name = mariadb.database(*SIMPLE)
    mariadb.database(f"CREATE TABLE child (id INT, FOREIGN KEY (id) REFERENCES {name}.t (id))")
    with pytest.raises(TargetInUseError, match="child"):
        restore(mariadb.url(name), dump(mariadb.url(name)), drop_existing=True)


def test_names_that_carry_their_database(mariadb: MariadbServer) -> None:
    """Triggers, defaults and views that name their own database belong to the new one after a restore."""
    name = mariadb.database(
        "CREATE SEQUENCE s",
        "CREATE TABLE t (id INT DEFAULT (NEXT VALUE FOR s) PRIMARY KEY)",
        "CREATE VIEW v AS SELECT LASTVAL(s) AS l, id FROM t",
    )
    mariadb.execute(name, f"CREATE TRIGGER {name}.tr BEFORE INSERT ON {name}.t FOR EACH ROW SET @a = 1")
    streams = dump(mariadb.url(name))
    mariadb.execute(None, f"DROP DATABASE {name}")
    target = f"{name}_new"
    assert restore(mariadb.url(target), streams) == []
    mariadb.execute(target, "INSERT INTO t VALUES ()", "SELECT * FROM v")
    shown = mariadb.execute(target, "SHOW CREATE TABLE t", "SHOW CREATE TRIGGER tr") + mariadb.execute(
        target, "SHOW CREATE TABLE t"
    )
    assert not any(f"`{name}`" in str(column) or "dataguardian_" in str(column) for row in shown for column in row)


def test_events_sleep_until_the_end(mariadb: MariadbServer) -> None:
    """An event that is due does not run in the database beside, and is awake in the target."""
    source = mariadb.database(
        "CREATE TABLE t (x INT)",
        "CREATE EVENT busy ON SCHEDULE EVERY 1 SECOND DO INSERT INTO t VALUES (1)",
        "ALTER EVENT busy DISABLE",
    )
    (stream,) = dump(mariadb.url(source))
    stream.data = stream.data.replace(b"PRESERVE DISABLE", b"PRESERVE ENABLE")
    seen: list[Any] = []
    target = engine_at(mariadb.url(f"{source}_new"))

    def look() -> None:
        seen.extend(mariadb.execute(None, "SELECT STATUS FROM information_schema.EVENTS WHERE EVENT_NAME = 'busy'"))

    target.restore(iter([stream]), RestoreOptions(before_swap=look))
    assert {row[0] for row in seen} == {"DISABLED"}
    rows = mariadb.execute(f"{source}_new", "SHOW EVENTS")
    assert "ENABLED" in rows[0]
    mariadb.execute(None, f"DROP DATABASE {source}_new")


def test_a_row_larger_than_a_packet(mariadb: MariadbServer) -> None:
    """A blob whose hexadecimal form is more than the server takes is warned of, restored, and the limit set back."""
    name = mariadb.database("CREATE TABLE t (b LONGBLOB)", "INSERT INTO t VALUES (REPEAT(X'00FF', 5000000))")
    streams = dump(mariadb.url(name))
    assert "max_allowed_packet" in streams[0].warnings[0]
    limit = mariadb.execute(None, "SELECT @@GLOBAL.max_allowed_packet")
    restore(mariadb.url(f"{name}_new"), streams)
    assert content_of(mariadb, f"{name}_new") == content_of(mariadb, name)
    assert mariadb.execute(None, "SELECT @@GLOBAL.max_allowed_packet") == limit


def test_tables_without_transactions(mariadb: MariadbServer) -> None:
    """They come along, and the backup says that they are not of the same moment."""
    name = mariadb.database("CREATE TABLE old (x INT) ENGINE = MyISAM", "INSERT INTO old VALUES (1)", *SIMPLE)
    (stream,) = dump(mariadb.url(name))
    assert "old (MyISAM)" in stream.warnings[0]
    restore(mariadb.url(f"{name}_new"), [stream])
    assert content_of(mariadb, f"{name}_new") == content_of(mariadb, name)


def test_an_event_at_which_the_dump_program_hangs(mariadb: MariadbServer) -> None:
    """mariadb-dump never ends when an event's text holds two semicolons: that is said instead of waiting."""
    name = mariadb.database("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SET @x = ';;'")
    with pytest.raises(DumpFailedError, match="event 'e'"):
        dump(mariadb.url(name))


def test_patterns_choose_tables(mariadb: MariadbServer) -> None:
    """Of one database, patterns leave tables out."""
    name = mariadb.database(*SIMPLE, "CREATE TABLE log_1 (x INT)", "CREATE TABLE log_2 (x INT)")
    restore(mariadb.url(f"{name}_new"), dump(mariadb.url(name), DumpOptions(exclude=("log_*",))))
    assert {row[0] for row in mariadb.execute(f"{name}_new", "SHOW TABLES")} == {"t"}


def test_a_dump_of_mysql(mariadb: MariadbServer) -> None:
    """What Oracle's program writes for MySQL 8 loads here, with the collations that compare most alike."""
    stream = script(
        "-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)",
        "/*!50503 SET NAMES utf8mb4 */;",
        "SET @MYSQLDUMP_TEMP_LOG_BIN = @@SESSION.SQL_LOG_BIN;",
        "SET @@SESSION.SQL_LOG_BIN= 0;",
        "SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ '';",
        "DROP TABLE IF EXISTS `t`;",
        "CREATE TABLE `t` (`a` varchar(9) COLLATE utf8mb4_0900_as_cs COMMENT 'utf8mb4_0900_ai_ci')"
        " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_ai_ci;",
        "LOCK TABLES `t` WRITE;",
        "INSERT INTO `t` VALUES ('x;'),('it\\'s');",
        "UNLOCK TABLES;",
    )
    stream.metadata["collation"] = "utf8mb4_0900_ai_ci"
    name = f"{mariadb.database()}_mysql"
    warnings = restore(mariadb.url(name), [stream])
    assert len(warnings) == 3
    assert "utf8mb4_0900_ai_ci" in warnings[0]
    assert mariadb.execute(name, "SELECT a FROM t ORDER BY a") == [("it's",), ("x;",)]
    assert "COMMENT 'utf8mb4_0900_ai_ci'" in mariadb.execute(name, "SHOW CREATE TABLE t")[0][1]


def test_socket(mariadb: MariadbServer) -> None:
    """A Unix socket stands in the place of the host, for probe, dump and restore."""
    name = mariadb.database(*SIMPLE)
    head = mariadb.url(name).partition("@")[0]
    address = f"{head}@/{{}}?socket={mariadb.socket}"
    assert engine_at(address.format(name)).check().status == "ok"
    restore(address.format(f"{name}_new"), dump(address.format(name)))
    assert content_of(mariadb, f"{name}_new") == content_of(mariadb, name)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities; `server` and `client` are signed by the first, for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = require_tool("openssl")
    for authority in ("ca", "stranger"):
        _run(folder, openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{authority}.key",
             "-out", f"{authority}.pem", "-subj", f"/CN={authority}", "-days", "2")  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        _run(folder, openssl, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
             "-subj", f"/CN={name}")  # fmt: skip
        _run(folder, openssl, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2",
             "-CAcreateserial", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
    return folder


def _run(folder: Path, *argv: str) -> None:
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def tls_server(certificates: Path) -> Iterator[MariadbServer]:
    options = [f"--ssl-{key}={certificates / value}" for key, value in
               (("ca", "ca.pem"), ("cert", "server.pem"), ("key", "server.key"))]  # fmt: skip
    with mariadb_server(*options) as server:
        server.execute(
            None,
            "CREATE USER 'x509'@'127.0.0.1' IDENTIFIED BY 'x' REQUIRE X509",
            "GRANT ALL ON *.* TO 'x509'@'127.0.0.1'",
        )
        yield server


def test_tls(tls_server: MariadbServer, certificates: Path) -> None:
    """Every mode does what it says, for the driver and for the dump program alike."""
    name, ca = tls_server.database(*SIMPLE), f"&ssl_ca={certificates / 'ca.pem'}"
    stranger = f"&ssl_ca={certificates / 'stranger.pem'}"
    for options in ("disable", "prefer", "require", f"verify-ca{ca}", f"verify-full{ca}"):
        address = f"{tls_server.url(name)}?ssl_mode={options}"
        assert engine_at(address).check().status == "ok", options
        assert dump(address)
    for options in (f"verify-ca{stranger}", f"verify-full{stranger}", "verify-full"):
        address = f"{tls_server.url(name)}?ssl_mode={options}"
        assert engine_at(address).check().status == "auth_failed", options
        with pytest.raises(AuthenticationError):
            dump(address)
    client = f"&ssl_cert={certificates / 'client.pem'}&ssl_key={certificates / 'client.key'}"
    address = tls_server.url(name, user="x509", password="x")
    assert engine_at(f"{address}?ssl_mode=require").check().status == "auth_failed"
    assert dump(f"{address}?ssl_mode=verify-full{ca}{client}")


def test_no_tls_where_it_is_required(mariadb: MariadbServer) -> None:
    """A server without TLS is not spoken to when TLS is asked for."""
    with pytest.raises(AuthenticationError):
        dump(f"{mariadb.url('mysql')}?ssl_mode=require")


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\x00\x00\x00\x0a1.2\x00", b"-ERR no\r\n"]
)
def test_somebody_else_answers(greeting: bytes) -> None:
    """A port where another program listens is told as unreachable, and the probe comes back."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(greeting)

        thread = threading.Thread(target=answer)
        thread.start()
        probe = engine_at(f"mysql://u:p@127.0.0.1:{listener.getsockname()[1]}/db").check()
        thread.join()
    assert probe.status == "unreachable", probe


def test_any_cut_gives_the_same_statements() -> None:
    """However the bytes arrive, the same statements come out, with the lines where they begin."""
    text = (
        b"/*M!999999\\- enable the sandbox mode */ \n-- c ; '\nSET a = 'x;''y\\'';\n\nINSERT INTO `a;\nb` VALUES\n"
        b"(1,'a\\n;'),\n(2,'\\\\');\nDELIMITER ;;\n"
        b"CREATE PROCEDURE p() BEGIN -- it's ;;\n/* ' ;; */ SELECT ';;', \"`\" ; # '\nEND;;\nDELIMITER ;\n"
        b"/*!50003 SET sql_mode = 'NO_BACKSLASH_ESCAPES' */ ;\nDELIMITER ;;\nCREATE x '\\';;\n"
        b"DELIMITER ;\n/*!50003 SET sql_mode = @old */ ;\n\n-- Dump completed on 2026\n"
    )
    results = []
    for size in (1, 2, 7, len(text)):
        splitter = Splitter()
        found = [one for at in range(0, len(text), size) for one in splitter.feed(text[at : at + size])]
        splitter.finish()
        results.append([(one.text, one.line) for one in found])
    assert all(result == results[0] for result in results)
    assert [line for _, line in results[0]] == [3, 5, 10, 14, 16, 18]
    assert results[0][2][0].endswith(b"END")


@pytest.mark.parametrize(
    "text", [b"", b"-- Dump comp", b"SELECT 1;\n", b"SELECT 'x;\n-- Dump completed\n", b"hello;\n"]
)
def test_no_whole_dump(text: bytes) -> None:
    """What has no last line, or ends within a string, is refused without a server."""
    with pytest.raises(IntegrityError):
        validate("sql", {}, iter([text]))


def test_only_what_belongs_to_the_database_is_renamed() -> None:
    """A column of a table that is called like the database keeps its name."""
    text = b"select `a`.`id` AS `a`,nextval(`a`.`s`),`a`.`f`(1),`a`.`a`.`x`,'nextval(`a`.`s`)' from `a`"
    expected = b"select `a`.`id` AS `a`,nextval(`b`.`s`),`b`.`f`(1),`b`.`a`.`x`,'nextval(`a`.`s`)' from `a`"
    assert renamed(text, "a", "b") == expected


def test_mysql_clients_are_told_in_their_own_words() -> None:
    """Oracle's program gets its own options, and none that only MariaDB's knows."""
    program = DumpProgram("/usr/bin/mysqldump", "mysqldump", "MySQL", "8.4.3")
    options = dump_options(program, history=False)
    assert {"--set-gtid-purged=OFF", "--column-statistics=0", "--no-tablespaces", "--hex-blob"} <= set(options)
    config = MysqlConfig(host="db", username="u", password="secret", ssl_mode="verify-full", ssl_ca="/ca.pem")
    endpoint = Endpoint("db", 3306, "db")
    arguments = client_arguments(config, endpoint, "MySQL", tls=True)
    assert arguments[0] == "--no-defaults"
    assert {"--ssl-mode=VERIFY_IDENTITY", "--ssl-ca=/ca.pem", "--host=db"} <= set(arguments)
    assert "--get-server-public-key" in client_arguments(config, endpoint, "MySQL", tls=False)
    assert not any("secret" in argument for argument in arguments)


def test_grants_are_read_as_the_server_means_them() -> None:
    """Wildcards, escapes, single tables and columns each reach as far as they say."""
    grants = Grants({
        ("shop\\_%", "*"): frozenset({"SELECT"}),
        ("mysql", "proc"): frozenset({"SELECT"}),
        ("*", "*"): frozenset({"EVENT"}),
    })  # fmt: skip
    assert grants.has("SELECT", "shop_1")
    assert not grants.has("SELECT", "shopx1")
    assert not grants.has("SELECT")
    assert grants.has("SELECT", "mysql", "proc")
    assert not grants.has("SELECT", "mysql", "user")
    assert grants.has("EVENT", "anything")


def test_collations_have_relatives() -> None:
    """Each flavour's newest collations are replaced by the other's, or by the oldest common ones."""
    mariadb, mysql = frozenset({"utf8mb4_uca1400_ai_ci"}), frozenset({"utf8mb4_0900_ai_ci", "utf8mb4_0900_as_cs"})
    assert nearest_collation("utf8mb4_0900_ai_ci", mariadb) == "utf8mb4_uca1400_ai_ci"
    assert nearest_collation("utf8mb4_uca1400_as_cs", mysql) == "utf8mb4_0900_as_cs"
    assert nearest_collation("utf8mb4_de_pb_0900_ai_ci", frozenset({"utf8mb4_unicode_ci"})) == "utf8mb4_unicode_ci"


@pytest.mark.parametrize("address", ["mysql://h/db?charset=x", "mysql://h/" + "x" * 65, "mariadb://h:0/db"])
def test_addresses_that_are_none(address: str) -> None:
    """Unknown parameters, names too long and port 0 are refused before anything is tried."""
    with pytest.raises(UsageError):
        engine_at(address)
    assert parse_url(address)
