"""Every verb on real sources: what it prints, its JSON to the key, and its exit code."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.program import Program

BACKUP_KEYS = [
    "backup",
    "execution_id",
    "name",
    "engine",
    "size_bytes",
    "compressed_size_bytes",
    "parts",
    "checksum",
    "duration_seconds",
    "warnings",
]


def names_in(path: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT name FROM items ORDER BY id").fetchall()


def test_a_backup_restores_to_equal_data(program: Program, shop: Path) -> None:
    """The main job: back up, list, verify on both levels, restore, compare."""
    taken = program.backup(f"sqlite://{shop}")
    assert program.listed()[0]["backup"] == taken["backup"]
    for level in ([], ["--deep"]):
        checked = program.run("verify", taken["backup"], "--json", *level)
        assert (checked.code, checked.json["ok"]) == (0, True)
    restored = shop.with_name("restored.db")
    assert program.run("restore", taken["backup"], f"sqlite://{restored}").code == 0
    assert names_in(restored) == names_in(shop)


def test_backup_json_has_the_documented_shape(program: Program, shop: Path) -> None:
    """`backup --json` prints exactly the documented keys, with sizes in bytes."""
    taken = program.backup(f"sqlite://{shop}")
    assert list(taken) == BACKUP_KEYS
    assert taken["backup"].startswith(f"{program.storage}/shop/")
    assert taken["backup"].endswith(f"-{taken['execution_id']}-1")
    assert (taken["name"], taken["engine"], taken["warnings"]) == ("shop", "sqlite", [])
    assert taken["size_bytes"] == shop.stat().st_size
    assert 0 < taken["compressed_size_bytes"] < taken["size_bytes"]
    assert (taken["parts"], len(taken["checksum"])) == (1, 64)


def test_list_json_adds_when_it_started(program: Program, shop: Path) -> None:
    """`list --json` has the keys of `backup --json` and `started_at`; an empty storage has an empty list."""
    assert program.run("list", program.storage, "--json").json == {"backups": []}
    taken = program.backup(f"sqlite://{shop}")
    (entry,) = program.listed()
    assert entry.pop("started_at").endswith("Z")
    assert entry == taken


def test_list_tells_damaged_manifests_apart(program: Program, shop: Path) -> None:
    """A backup with a damaged manifest is named as unreadable, and the others are still listed."""
    bad, good = program.backup(f"sqlite://{shop}"), program.backup(f"sqlite://{shop}")
    manifest = Path(bad["backup"].removeprefix("file://")) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"name": "shop"', b'"name": "shoq"'))
    document = program.run("list", program.storage, "--json").json
    assert [entry["backup"] for entry in document["backups"]] == [good["backup"]]
    assert [entry["backup"] for entry in document["unreadable"]] == [bad["backup"]]
    assert "was damaged or edited" in program.run("list", program.storage).err


def test_an_empty_list_says_what_to_do(program: Program) -> None:
    """An empty storage is no error: the next command is shown."""
    outcome = program.run("list", program.storage)
    assert outcome.code == 0
    assert "dataguardian backup SOURCE" in outcome.out


def test_verify_json_has_the_documented_shape(program: Program, shop: Path) -> None:
    """`verify --json` says what was checked, on which level, and what is wrong."""
    backup = program.backup(f"sqlite://{shop}")["backup"]
    assert program.run("verify", backup + "/", "--json").json == {
        "backup": backup,
        "ok": True,
        "level": "stored",
        "parts": 1,
        "errors": [],
    }


@pytest.mark.parametrize("level", ["stored", "deep"])
@pytest.mark.parametrize("damage", ["part", "manifest.json", "parts.jsonl"])
def test_verify_finds_damage(program: Program, shop: Path, level: str, damage: str) -> None:
    """A flipped bit in any stored object gives exit code 3 on both levels, with a sentence that names the object."""
    backup = program.backup(f"sqlite://{shop}")["backup"]
    folder = Path(backup.removeprefix("file://"))
    victim = next(folder.glob("01-*/000001*")) if damage == "part" else folder / damage
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    outcome = program.run("verify", backup, "--json", *(["--deep"] if level == "deep" else []))
    assert (outcome.code, outcome.json["ok"], outcome.json["level"]) == (3, False, level)
    assert victim.name in outcome.json["errors"][0]
    told = program.run("verify", backup)
    assert told.code == 3
    assert "DAMAGED" in told.out


@pytest.mark.parametrize("level", [[], ["--deep"]])
def test_a_lost_manifest_is_damage_and_a_backup_that_never_was_is_not(
    program: Program, shop: Path, level: list[str]
) -> None:
    """On both levels a backup without its manifest gives exit code 3, and an address without any backup 5."""
    backup = program.backup(f"sqlite://{shop}")["backup"]
    (Path(backup.removeprefix("file://")) / "manifest.json").unlink()
    outcome = program.run("verify", backup, "--json", *level)
    assert (outcome.code, outcome.json["ok"]) == (3, False)
    assert "has no manifest.json" in outcome.json["errors"][0]
    outcome = program.run("verify", backup[:-2] + "-9", "--json", *level)
    assert (outcome.code, outcome.json["error"]) == (5, "not_found")


def test_restore_json_has_the_documented_shape(program: Program, tree: Path) -> None:
    """`restore --json` names the target and counts raw bytes."""
    taken = program.backup(f"files://{tree}")
    target = f"files://{tree.parent}/restored"
    outcome = program.run("restore", taken["backup"], target, "--json")
    assert outcome.code == 0, outcome
    assert list(outcome.json) == ["backup", "target", "size_bytes", "duration_seconds"]
    assert (outcome.json["target"], outcome.json["size_bytes"]) == (target, taken["size_bytes"])
    assert outcome.err == ""


def test_restore_replaces_only_when_asked(program: Program, shop: Path) -> None:
    """An existing target is refused with exit code 2, and replaced with --drop-existing."""
    backup = program.backup(f"sqlite://{shop}")["backup"]
    before = names_in(shop)
    with closing(sqlite3.connect(shop)) as database, database:
        database.execute("DELETE FROM items")
    refused = program.run("restore", backup, f"sqlite://{shop}", "--json")
    assert (refused.code, refused.json["error"]) == (2, "target_not_empty")
    assert names_in(shop) == []
    assert program.run("restore", backup, f"sqlite://{shop}", "--drop-existing").code == 0
    assert names_in(shop) == before


def test_a_damaged_backup_is_not_restored(program: Program, shop: Path) -> None:
    """Restoring a damaged backup exits 3 and leaves no target."""
    backup = program.backup(f"sqlite://{shop}")["backup"]
    part = next(Path(backup.removeprefix("file://")).glob("01-*/000001*"))
    part.write_bytes(part.read_bytes()[:-1])
    outcome = program.run("restore", backup, f"sqlite://{shop.parent}/never.db", "--json")
    assert (outcome.code, outcome.json["error"]) == (3, "damaged_part")
    assert not (shop.parent / "never.db").exists()


def test_include_and_exclude_choose_files(program: Program, tree: Path) -> None:
    """--include and --exclude may be repeated and end up in the manifest."""
    taken = program.backup(f"files://{tree}", "--include", "*.txt", "--include", "*.log", "--exclude", "two*")
    restored = tree.parent / "restored"
    assert program.run("restore", taken["backup"], f"files://{restored}").code == 0
    assert [path.name for path in restored.rglob("*") if path.is_file()] == ["one.txt"]
    manifest = json.loads((Path(taken["backup"].removeprefix("file://")) / "manifest.json").read_text())
    assert manifest["options"] == {"include": ["*.txt", "*.log"], "exclude": ["two*"]}


@pytest.mark.parametrize("compression", ["zstd", "gzip", "lz4", "none"])
def test_options_reach_the_manifest(program: Program, shop: Path, compression: str) -> None:
    """--name, --compression and --part-size are what the backup was made with."""
    taken = program.backup(f"sqlite://{shop}", "--name", "Löja #1", "--compression", compression, "--part-size", "64K")
    manifest = json.loads((Path(taken["backup"].removeprefix("file://")) / "manifest.json").read_text())
    assert (manifest["name"], manifest["compression"]) == ("Löja #1", compression)
    assert manifest["part_size_bytes"] == 64 * 1024
    assert taken["parts"] == -(-taken["size_bytes"] // (64 * 1024))
    assert program.run("verify", "--deep", taken["backup"]).code == 0


def test_names_that_are_no_text_survive(program: Program, tmp_path: Path) -> None:
    """A storage folder whose name is not UTF-8 can be addressed, printed and read back."""
    tree, storage = tmp_path / "tree", tmp_path / "st\udcff #&"
    tree.mkdir()
    storage.mkdir()
    (tree / "file\udcfe").write_text("odd")
    taken = program.run("backup", f"files://{tree}", f"file://{tmp_path}/st%FF%20%23&", "--json")
    assert taken.code == 0, taken
    assert "/st%FF%20%23%26/" in taken.json["backup"]
    assert program.run("verify", "--deep", taken.json["backup"]).code == 0
    assert program.run("restore", taken.json["backup"], f"files://{tmp_path}/all").code == 0
    assert (tmp_path / "all" / "file\udcfe").read_text() == "odd"
    program.backup(f"files://{tree}", "--exclude", "file\udcfe")


def test_the_result_tells_the_next_commands(program: Program, shop: Path) -> None:
    """On the terminal, a backup ends with the commands that verify and restore it, on lines that are never broken."""
    outcome = program.run("backup", f"sqlite://{shop}", program.storage)
    assert outcome.code == 0
    (backup,) = program.listed()
    lines = [line.strip() for line in outcome.out.splitlines()]
    assert f"verify   dataguardian verify --deep {backup['backup']}" in lines
    assert f"restore  dataguardian restore {backup['backup']} TARGET" in lines
    assert "backing up shop" in outcome.err


def test_doctor_shows_what_there_is(program: Program) -> None:
    """`doctor` knows every engine and storage, their programs, and the staging folder."""
    outcome = program.run("doctor", "--json")
    assert (outcome.code, outcome.json["ok"]) == (0, True)
    engines = {engine["type"]: engine for engine in outcome.json["engines"]}
    assert {"postgres", "sqlite", "files"} <= engines.keys()
    assert any(tool["path"] and tool["version"] for tool in engines["files"]["programs"])
    assert "local" in {storage["type"] for storage in outcome.json["storages"]}
    assert outcome.json["staging"]["writable"]
    assert "compressions" in program.run("doctor").out


def test_doctor_fails_only_when_nothing_works(program: Program) -> None:
    """A staging folder that is not there makes every backup of SQLite impossible: exit code 4."""
    program.env["DATAGUARDIAN_STAGING_DIR"] = str(program.home / "nowhere")
    outcome = program.run("doctor")
    assert outcome.code == 4
    assert "nothing can be backed up" in outcome.err


def test_help_and_version(program: Program) -> None:
    """--help and --version go to standard output and exit 0; no verb at all is wrong usage."""
    assert program.run("--version").out.startswith("dataguardian ")
    for arguments in (["--help"], ["backup", "--help"]):
        assert program.run(*arguments).code == 0
    bare = program.run()
    assert bare.code == 2
    assert "restore" in bare.out
