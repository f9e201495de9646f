"""The command line with a real PostgreSQL server: passwords, child processes, signals, replacing a database."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.cli.program import Program, finished, running, wait_for
from tests.servers import PASSWORD, PostgresServer

ROWS = "CREATE TABLE items AS SELECT n AS id, md5(n::text) AS name FROM generate_series(1, 5000) n"
MANY = (
    "CREATE TABLE items AS SELECT n AS id, md5(n::text) || md5((n + 1)::text) AS name FROM generate_series(1, 600000) n"
)
COUNT = "SELECT count(*), md5(string_agg(name, ',' ORDER BY id)) FROM items"


@pytest.fixture
def database(postgres17: PostgresServer) -> str:
    return postgres17.database(ROWS)


def test_a_database_comes_back(program: Program, postgres17: PostgresServer, database: str) -> None:
    """Back up, verify, restore to a new database, compare; the password in the address is shown nowhere."""
    taken = program.run("backup", postgres17.url(database), program.storage, "--json")
    assert taken.code == 0, taken
    assert program.run("verify", "--deep", taken.json["backup"]).code == 0
    restored = f"{database}_restored"
    back = program.run("restore", taken.json["backup"], postgres17.url(restored), "--json")
    assert back.code == 0, back
    assert postgres17.execute(restored, COUNT) == postgres17.execute(database, COUNT)
    assert back.json["target"] == postgres17.url(restored, password=None)
    stored = b"".join(path.read_bytes() for path in (program.home / "storage").rglob("*.json*"))
    for secret in (PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in taken.out + taken.err + back.out + back.err
        assert secret.encode() not in stored


def test_one_database_of_a_server(program: Program, postgres17: PostgresServer, database: str) -> None:
    """`--stream` names databases of a whole server; one that is not there ends it, and so does a source that is one."""
    made = program.backup(postgres17.url(None), "--stream", database)
    (manifest,) = (program.home / "storage").rglob("manifest.json")
    assert [stream["name"] for stream in json.loads(manifest.read_text())["streams"]] == ["globals", database]
    assert program.run("verify", "--deep", made["backup"]).code == 0
    for source, name, code, words in [
        (postgres17.url(None), f"{database}*", 5, "has no database"),
        (postgres17.url(database), database, 2, "backed up whole"),
    ]:
        told = program.run("backup", source, program.storage, "--stream", name)
        assert (told.code, words in told.err) == (code, True), told
    assert len(program.listed()) == 1


def test_a_database_is_replaced_only_when_asked(program: Program, postgres17: PostgresServer, database: str) -> None:
    """A database that holds data is refused with exit code 2, and replaced with --drop-existing."""
    backup = program.backup(postgres17.url(database))["backup"]
    expected = postgres17.execute(database, COUNT)
    postgres17.execute(database, "DELETE FROM items WHERE id > 10")
    refused = program.run("restore", backup, postgres17.url(database), "--json")
    assert (refused.code, refused.json["error"]) == (2, "target_not_empty")
    assert postgres17.execute(database, "SELECT count(*) FROM items") == [(10,)]
    replaced = program.run("restore", backup, postgres17.url(database), "--drop-existing")
    assert replaced.code == 0, replaced
    assert postgres17.execute(database, COUNT) == expected


@pytest.mark.parametrize("way", ["file", "variable", "address"])
def test_the_ways_to_give_a_password(program: Program, postgres17: PostgresServer, database: str, way: str) -> None:
    """The password comes from --password-file, the environment or the address; the file wins over the address."""
    source = postgres17.url(database, password={"file": "wrong", "variable": None, "address": PASSWORD}[way])
    options = []
    if way == "file":
        secret = program.home / "secret"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o600)
        options = ["--password-file", str(secret)]
    if way == "variable":
        program.env["DATAGUARDIAN_PASSWORD"] = PASSWORD
    outcome = program.run("backup", source, program.storage, *options)
    assert outcome.code == 0, outcome
    assert PASSWORD not in outcome.out + outcome.err


@pytest.mark.parametrize("error", ["auth_failed", "not_found"])
def test_what_the_server_refuses(program: Program, postgres17: PostgresServer, database: str, error: str) -> None:
    """A wrong password and a database that is not there exit 5, each with its own word."""
    wrong = postgres17.url(database, password="Wrong-Secret-1")
    source = wrong if error == "auth_failed" else postgres17.url("nowhere")
    outcome = program.run("backup", source, program.storage, "--json")
    assert (outcome.code, outcome.json["error"]) == (5, error), outcome
    assert "Wrong-Secret-1" not in outcome.out + outcome.err
    assert program.stored == []


def test_no_child_is_told_a_password_in_its_arguments(program: Program, postgres17: PostgresServer) -> None:
    """While pg_dump runs, its arguments and those of everything around it hold no password; a stop ends them all."""
    database = postgres17.database(MANY)
    program.env["DATAGUARDIAN_PASSWORD"] = PASSWORD
    source = postgres17.url(database, password=None)
    process, mark = program.start("backup", source, program.storage, "--level", "19", "--part-size", "256KiB")
    children = wait_for(lambda: _lines_with(mark, "pg_dump"), "pg_dump")
    wait_for(lambda: any(path.endswith(".zst") for path in program.stored), "the first part")
    lines = [*children, *running(mark).values()]
    assert not [line for line in lines if PASSWORD in line]
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    outcome = finished(process, mark)
    assert outcome.code == 143, outcome
    assert (program.stored, running(mark)) == ([], {})


def test_a_stopped_restore_leaves_the_database(program: Program, postgres17: PostgresServer) -> None:
    """SIGTERM in the middle of replacing a database: the old one is whole, and no other one was left."""
    database = postgres17.database(MANY)
    backup = program.backup(postgres17.url(database), "--level", "1")["backup"]
    postgres17.execute(database, "DELETE FROM items WHERE id > 10")
    before = postgres17.databases()
    process, mark = program.start("restore", backup, postgres17.url(database), "--drop-existing")
    wait_for(lambda: _lines_with(mark, "pg_restore"), "pg_restore")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    outcome = finished(process, mark)
    assert outcome.code == 143, outcome
    assert "the target is as it was" in outcome.err
    assert postgres17.execute(database, "SELECT count(*) FROM items") == [(10,)]
    left = {name for name in postgres17.databases() - before if database in name}
    assert (left, running(mark)) == (set(), {})


def _lines_with(mark: str, program: str) -> list[str]:
    return [line for line in running(mark).values() if Path(line.split(maxsplit=1)[0]).name == program]
