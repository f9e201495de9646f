"""Restoring without DataGuardian: the very lines of the manifest's `how_to_restore`, run by bash with stock tools."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from tests.acceptance.comparing import postgres_content, postgres_globals, sqlite_dump, tree
from tests.acceptance.sources import everything, odd_database, odd_tree
from tests.cli.program import Program
from tests.conftest import require_tool
from tests.servers import PostgresServer

EXPANDERS = {"zstd": "zstd", "gzip": "gzip", "lz4": "lz4", "none": "cat"}
COMPRESSIONS = sorted(EXPANDERS)


def restore_by_hand(backup: str, place: Path, env: dict[str, str] | None = None, *, typed: str | None = None) -> Path:
    """Runs the manifest's own lines in a copy of the backup's folder, where DataGuardian cannot be found.

    `typed` is what somebody types on the terminal that they run in.
    """
    folder = place / "copy"
    shutil.copytree(unquote(backup.removeprefix("file://")), folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for tool in ("sha256sum", EXPANDERS[manifest["compression"]]):
        require_tool(tool)
    given = env or dict(os.environ)
    venv = str(Path(sys.executable).parent)
    path = os.pathsep.join(entry for entry in given["PATH"].split(os.pathsep) if entry != venv)
    script = "\n".join(manifest["how_to_restore"])
    assert "dataguardian" not in script
    if typed is not None:
        printed = on_terminal(script, typed, folder, given | {"PATH": path})
    else:
        done = subprocess.run(
            ["bash"], input=script.encode(), cwd=folder, env=given | {"PATH": path}, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
        printed = done.stdout.decode()
    for name in ("parts.jsonl", *(line["path"] for line in map(json.loads, (folder / "parts.jsonl").open()))):
        assert f"{name}: OK" in printed
    return folder


def on_terminal(script: str, typed: str, folder: Path, env: dict[str, str]) -> str:
    """Runs lines in bash on a terminal of its own, types when age asks for a passphrase; returns what was printed."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvpe("bash", ["bash", "-c", script], env)
    printed, asked = b"", False
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux says that nobody has the terminal any more
            piece = b""
        if not piece:
            break
        printed += piece
        if not asked and b"assphrase" in printed:
            asked = os.write(terminal, typed.encode() + b"\n") > 0
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, printed.decode("utf-8", "replace")
    return printed.decode("utf-8", "replace")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_sqlite_database(program: Program, tmp_path: Path, compression: str) -> None:
    """cat, the expander and sqlite3 give the same dump as the original, log included."""
    source = odd_database(tmp_path / "odd 'name'.db")
    backup = program.backup(f"sqlite://{quote(str(source))}", "--compression", compression, "--part-size", "64KiB")
    assert backup["parts"] > 5
    folder = restore_by_hand(backup["backup"], tmp_path)
    assert sqlite_dump(folder / "restored.db") == sqlite_dump(source)


def test_the_running_hashes(program: Program, tmp_path: Path) -> None:
    """What a line of parts.jsonl says of the bytes so far, cat, zstd and sha256sum say too; the last, of the whole."""
    require_tool("zstd")
    source = tmp_path / "source"
    source.mkdir()
    (source / "noise").write_bytes(os.urandom(150_000))
    backup = program.backup(f"files://{source}", "--part-size", "64KiB")["backup"]
    folder = Path(unquote(backup.removeprefix("file://")))
    lines = [json.loads(line) for line in (folder / "parts.jsonl").read_text().splitlines()]
    assert len(lines) > 2
    for count, line in enumerate(lines, start=1):
        script = 'cat "$@" | zstd -dc | sha256sum'
        so_far = [entry["path"] for entry in lines[:count]]
        done = subprocess.run(["bash", "-c", script, "bash", *so_far], cwd=folder, capture_output=True, check=True)
        assert done.stdout.split()[0].decode() == line["running_sha256"]
    (stream,) = json.loads((folder / "manifest.json").read_bytes())["streams"]
    assert stream["sha256"] == lines[-1]["running_sha256"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_tree(program: Program, tmp_path: Path, compression: str) -> None:
    """Stock tar gives back every name, mode, owner, time, link, hole and attribute."""
    source = odd_tree(tmp_path / "source")
    backup = program.backup(f"files://{source}", "--compression", compression, "--part-size", "256KiB")
    assert backup["parts"] > 5
    folder = restore_by_hand(backup["backup"], tmp_path)
    assert tree(folder / "target") == tree(source)
    assert (folder / "target" / "sparse").stat().st_blocks * 512 < 1_000_000
    assert [warning for warning in backup["warnings"] if "socket" not in warning] == []


@pytest.fixture
def stand_in(postgres17: PostgresServer) -> Callable[[str], str]:
    """Renames a database away, so that `pg_restore --create` can make it anew; returns its new name."""

    def rename(name: str) -> str:
        postgres17.execute("postgres", f'ALTER DATABASE "{name}" RENAME TO "{name} original"')
        return f"{name} original"

    return rename


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_postgres_database(
    program: Program, postgres17: PostgresServer, stand_in: Callable[[str], str], tmp_path: Path, compression: str
) -> None:
    """Stock pg_restore gives back one of every kind of object, every row, large objects and sequences."""
    name = everything(postgres17, f"By hand, {compression} {os.getpid()}")
    backup = program.backup(
        postgres17.url(name), "--compression", compression, "--part-size", "64KiB", "--name", "by hand"
    )
    assert backup["parts"] > 5
    expected = postgres_content(postgres17, name)
    assert len(expected["rows"]) > 8
    original = stand_in(name)
    env = postgres17.environment()
    restore_by_hand(backup["backup"], tmp_path, env | {"PATH": f"{postgres17.bin}{os.pathsep}{env['PATH']}"})
    assert postgres_content(postgres17, name) == expected
    for database in (name, original):
        postgres17.drop(database)


def test_a_database_that_opens_read_only(
    program: Program, postgres17: PostgresServer, stand_in: Callable[[str], str], tmp_path: Path
) -> None:
    """pg_restore sets what the database sets before it fills it, and is let write all the same."""
    name = postgres17.database("CREATE TABLE t AS SELECT 7 AS x")
    postgres17.execute("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only TO on")
    backup = program.backup(postgres17.url(name))
    expected = postgres_content(postgres17, name)
    original = stand_in(name)
    env = postgres17.environment()
    restore_by_hand(backup["backup"], tmp_path, env | {"PATH": f"{postgres17.bin}{os.pathsep}{env['PATH']}"})
    assert postgres_content(postgres17, name) == expected
    assert postgres17.execute(name, "SHOW default_transaction_read_only") == [("on",)]
    for database in (name, original):
        postgres17.drop(database)


def test_a_whole_cluster(program: Program, fresh_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    """Roles with passwords and memberships, and every database, onto an empty server."""
    source, target = fresh_postgres(17), fresh_postgres(17)
    source.execute(
        "postgres",
        "CREATE ROLE \"Ann O'Neil\" LOGIN PASSWORD 'x''y' VALID UNTIL '2033-01-01' CONNECTION LIMIT 3",
        "CREATE ROLE readers NOLOGIN",
        'GRANT readers TO "Ann O\'Neil" WITH ADMIN OPTION',
        "ALTER ROLE readers SET work_mem = '7MB'",
        "CREATE TABLE in_postgres (x int)",
        "INSERT INTO in_postgres VALUES (7)",
    )
    names = [everything(source, "shop"), source.database("CREATE TABLE t AS SELECT 1 AS x", name='odd "db" é')]
    source.execute("postgres", 'ALTER DATABASE shop OWNER TO "Ann O\'Neil"', "ALTER DATABASE shop SET work_mem = '9MB'")
    backup = program.backup(source.url(), "--part-size", "64KiB")
    env = target.environment()
    restore_by_hand(backup["backup"], tmp_path, env | {"PATH": f"{target.bin}{os.pathsep}{env['PATH']}"})
    assert target.databases() == source.databases()
    for name in [*names, "postgres"]:
        assert postgres_content(target, name) == postgres_content(source, name)
    assert postgres_globals(target) == postgres_globals(source)


@pytest.fixture
def private_key(program: Program, tmp_path: Path) -> tuple[Path, str]:
    """A key pair as the program makes it: the file, and the public key."""
    require_tool("age")
    file = tmp_path / "private key"
    return file, program.run("key", "generate", str(file), "--json").json["recipient"]


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_an_encrypted_tree(program: Program, tmp_path: Path, private_key: tuple[Path, str], compression: str) -> None:
    """The stock age opens every part, each a file of its own, with the key that `key generate` made."""
    file, public = private_key
    source = odd_tree(tmp_path / "source")
    backup = program.backup(
        f"files://{source}", "--compression", compression, "--part-size", "256KiB", "--recipient", public
    )
    assert backup["parts"] > 5
    folder = restore_by_hand(backup["backup"], tmp_path, dict(os.environ) | {"KEY": str(file)})
    assert tree(folder / "target") == tree(source)


def test_an_encrypted_postgres_database(
    program: Program,
    postgres17: PostgresServer,
    stand_in: Callable[[str], str],
    tmp_path: Path,
    private_key: tuple[Path, str],
) -> None:
    """age, zstd and pg_restore give back every row; without the key they say what is missing."""
    file, public = private_key
    name = everything(postgres17, f"By hand, encrypted {os.getpid()}")
    backup = program.backup(postgres17.url(name), "--part-size", "64KiB", "--name", "sealed", "--recipient", public)
    assert backup["parts"] > 5
    expected = postgres_content(postgres17, name)
    original = stand_in(name)
    env = postgres17.environment()
    env |= {"PATH": f"{postgres17.bin}{os.pathsep}{env['PATH']}"}
    with pytest.raises(AssertionError, match="KEY must be the path"):
        restore_by_hand(backup["backup"], tmp_path / "without", env)
    other = tmp_path / "other key"
    program.run("key", "generate", str(other))
    with pytest.raises(AssertionError, match="no identity matched"):
        restore_by_hand(backup["backup"], tmp_path / "wrong", env | {"KEY": str(other)})
    restore_by_hand(backup["backup"], tmp_path / "right", env | {"KEY": str(file)})
    assert postgres_content(postgres17, name) == expected
    for database in (name, original):
        postgres17.drop(database)


def test_a_passphrase_s_backup(program: Program, tmp_path: Path) -> None:
    """Somebody types the passphrase, once, on a terminal; no key is left behind."""
    require_tool("age")
    words, temporary = "correct horse battery", tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "words").write_text(words + "\n")
    (tmp_path / "words").chmod(0o600)
    source = odd_database(tmp_path / "odd.db")
    backup = program.backup(f"sqlite://{source}", "--part-size", "64KiB", "--passphrase-file", str(tmp_path / "words"))
    assert backup["parts"] > 5
    env = dict(os.environ) | {"TMPDIR": str(temporary)}
    folder = restore_by_hand(backup["backup"], tmp_path, env, typed=words)
    assert sqlite_dump(folder / "restored.db") == sqlite_dump(source)
    assert list(temporary.iterdir()) == []


def test_more_parts_than_a_command_line_holds(tmp_path: Path) -> None:
    """Eighty thousand parts: the very lines still work, although their names fill more than a command line."""
    from dataguardian.core.byhand import how_to_restore  # noqa: PLC0415 -- only here something is taken from inside
    from dataguardian.domain.artifact import StreamRecord  # noqa: PLC0415 -- as above
    from dataguardian.streams.codecs import codec_for  # noqa: PLC0415 -- as above

    count, codec = 80_000, codec_for("zstd")
    folder = tmp_path / "01-many.raw"
    folder.mkdir()
    piece = tmp_path / "piece"
    for number in range(1, count + 1):
        if number % 1000 == 1:  # a file has only so many names
            piece = tmp_path / f"piece{number}"
            piece.write_bytes(codec.compress(b"%06d\n" % (number // 1000)))
        os.link(piece, folder / f"{number:06d}{codec.suffix}")
    stream = StreamRecord(
        directory="01-many.raw", name="many", kind="raw", parts=count, size_bytes=1, stored_size_bytes=1,
        sha256="0" * 64, restore_by_hand=["cat > whole"],
    )  # fmt: skip
    line = how_to_restore([stream], codec)[-1]
    subprocess.run(["bash", "-eo", "pipefail", "-c", line], cwd=tmp_path, check=True)
    numbers = (tmp_path / "whole").read_text().split()
    assert numbers == [f"{number // 1000:06d}" for number in range(count)]
