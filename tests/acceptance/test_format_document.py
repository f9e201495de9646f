"""docs/format.md, held to reality: its commands run, and its tables name every member that there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import pytest

from dataguardian.domain.artifact import FORMAT, Manifest, PartRecord, StreamRecord
from dataguardian.streams.codecs import CODECS
from tests.cli.program import Program
from tests.conftest import require_tool
from tests.servers import PostgresServer

TEXT = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)


def tables() -> list[tuple[str, list[list[str]]]]:
    """Returns every table of the page: the first cell of its header, and its rows."""
    found: list[tuple[str, list[list[str]]]] = []
    inside = False
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("|") and not inside:
            found.append((cells[0], []))
        elif line.startswith("|") and not line.startswith("|--"):
            found[-1][1].append(cells)
        inside = line.startswith("|")
    return found


def table(header: str, first_row: str = "") -> list[list[str]]:
    """Returns the rows of the table whose header and first row begin so."""
    return next(rows for head, rows in tables() if head == header and rows[0][0].startswith(first_row))


def named(cell: str) -> list[str]:
    return re.findall(r"`([a-z_0-9]+)`", cell)


def folder_of(backup: str, place: Path) -> Path:
    folder = place / "copy"
    shutil.copytree(unquote(backup.removeprefix("file://")), folder)
    return folder


def run(script: str, folder: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_manifest_s_table_names_every_member() -> None:
    """No member without a line, no line without a member; the same for a stream's."""
    manifest = table("member", "`format`")
    assert sorted(name for row in manifest for name in named(row[0])) == sorted(Manifest.model_fields)
    streams = next(row[1] for row in manifest if row[0] == "`streams`")
    assert sorted(named(streams)) == sorted(StreamRecord.model_fields)
    assert f"# Artifact format {FORMAT}\n" in TEXT


def test_the_table_of_parts_names_every_member() -> None:
    """A line of parts.jsonl, member by member."""
    parts = table("member", "`path`")
    assert sorted(name for row in parts for name in named(row[0])) == sorted(PartRecord.model_fields)


def test_the_table_of_compressions_is_complete() -> None:
    """Every compression, its suffix and the command that expands it."""
    rows = {row[0].strip("`"): row[1:] for row in table("`compression`")}
    assert sorted(rows) == sorted(CODECS)
    for name, codec in CODECS.items():
        suffix, command = rows[name]
        assert suffix == (f"`{codec.suffix}`" if codec.suffix else "(no suffix)")
        assert f"`{codec.command}`" in command
        assert re.fullmatch(str(Manifest.model_fields["compression"].metadata[0].pattern), name)


def test_the_commands_restore_a_database(program: Program, postgres17: PostgresServer, tmp_path: Path) -> None:
    """The page's own block, for the page's own example, brings the database back."""
    require_tool("zstd")
    name = postgres17.database("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 9000) n")
    query = "SELECT count(*), md5(string_agg(t::text, '' ORDER BY n)) FROM t"
    expected = postgres17.execute(name, query)
    backup = program.backup(postgres17.url(name), "--part-size", "64KiB")
    folder = folder_of(backup["backup"], tmp_path)
    (folder / f"01-{name}.pgdump").rename(folder / "01-shop.pgdump")
    for records in ("SHA256SUMS", "parts.jsonl"):
        text = (folder / records).read_text().replace(f"01-{name}.pgdump", "01-shop.pgdump")
        (folder / records).write_text(text)
    postgres17.drop(name)
    env = postgres17.environment()
    block = next(block for block in BLOCKS if "pg_restore" in block)
    with_sums = block.replace("sha256sum -c SHA256SUMS", "grep -v parts.jsonl SHA256SUMS | sha256sum -c")
    assert with_sums != block
    run(with_sums, folder, env | {"PATH": f"{postgres17.bin}{os.pathsep}{env['PATH']}"})
    assert postgres17.execute(name, query) == expected


def test_the_command_for_the_manifest_s_own_hash(program: Program, tmp_path: Path) -> None:
    """The page's sed line prints the digits that the manifest holds."""
    (tmp_path / "tree").mkdir()
    backup = program.backup(f"files://{tmp_path}/tree", "--name", '"manifest_sha256": "' + "0" * 64 + '"')
    folder = folder_of(backup["backup"], tmp_path)
    block = next(block for block in BLOCKS if "manifest_sha256" in block)
    digits = json.loads((folder / "manifest.json").read_bytes())["manifest_sha256"]
    assert run(block, folder).split()[0] == digits
    assert run("sha256sum SHA256SUMS parts.jsonl", folder).split()[::2] == [
        backup["checksum"],
        json.loads((folder / "manifest.json").read_bytes())["parts_sha256"],
    ]


@pytest.mark.parametrize("suffix", [".sqlite", ".tar"])
def test_the_table_of_streams_has_commands_that_work(program: Program, tmp_path: Path, suffix: str) -> None:
    """What the page says about reading a raw stream is what reads it."""
    require_tool("zstd")
    source = tmp_path / "source"
    if suffix == ".tar":
        source.mkdir()
        (source / "file").write_text("content")
    else:
        with closing(sqlite3.connect(source)) as database, database:
            database.execute("CREATE TABLE t AS SELECT 7 AS x")
    backup = program.backup(f"{'files' if suffix == '.tar' else 'sqlite'}://{source}")
    folder = folder_of(backup["backup"], tmp_path)
    (command,) = (re.findall(r"`([^`]+)`", row[2])[0] for row in table("stream's suffix") if row[0] == f"`{suffix}`")
    (folder / "DIR").mkdir()
    run(f"set -eo pipefail; cat 01-*/[0-9]*.zst | zstd -dc | {command}", folder)
    if suffix == ".tar":
        assert (folder / "DIR" / "file").read_text() == "content"
    else:
        with closing(sqlite3.connect(folder / "restored.db")) as database:
            assert database.execute("SELECT x FROM t").fetchall() == [(7,)]


def test_every_stream_kind_has_a_line() -> None:
    """The kinds that engines write, each with what it is and how to read it."""
    from dataguardian.engines.files.dump import TarStream  # noqa: PLC0415 -- as above
    from dataguardian.engines.mongodb.archive import KIND as MONGODB  # noqa: PLC0415 -- as above
    from dataguardian.engines.mysql.dump import DATABASE_KIND, GLOBALS_KIND  # noqa: PLC0415 -- as above
    from dataguardian.engines.postgres.dump import DatabaseDump, GlobalsDump  # noqa: PLC0415 -- their kinds only
    from dataguardian.engines.sqlite.restore import STREAM_KIND  # noqa: PLC0415 -- as above
    from dataguardian.engines.sqlserver import BACPAC_STREAM, TDS_STREAM  # noqa: PLC0415 -- as above

    kinds = {DatabaseDump.kind, GlobalsDump.kind, STREAM_KIND, TarStream.kind, TDS_STREAM, BACPAC_STREAM}
    kinds |= {MONGODB, DATABASE_KIND, GLOBALS_KIND}
    assert {row[0].strip("`.") for row in table("stream's suffix")} == kinds
