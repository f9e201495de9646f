"""The worst day: the machine is gone, and there are the recovery kit, the storages and what every system has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataguardian.cli.things import DATASOURCE, JOB, STORAGE
from tests.acceptance.comparing import postgres_content, tree
from tests.acceptance.sources import odd_tree
from tests.acceptance.test_by_hand import on_terminal
from tests.cli.service import Service, cleared, short_folder
from tests.conftest import require_tool
from tests.servers import PASSWORD, SUPERUSER, PostgresServer
from tests.storage.peers import shared
from tests.storage.processes import program
from tests.storage.s3_servers import S3Server, moto_s3

PASSPHRASE = "Grüße, seven words nobody  wrote"
KIT_PASSPHRASE = "a kit of the worst day"


@dataclass
class Lost:
    """What a service backed up before its machine was lost: `kit` is the document, `disk` and `bucket` survive."""

    service: Service
    kit: Path
    disk: Path
    database: str
    source: Path
    secrets: list[str]


def blocks(text: str) -> dict[str, list[str]]:
    """Returns the commands of a kit, by chapter, as a person finds them: between the fences."""
    found: dict[str, list[str]] = {}
    chapter, inside, lines = "", False, text.splitlines()
    for number, line in enumerate(lines):
        if not inside and number + 1 < len(lines) and lines[number + 1] == "=" * len(line) != "":
            chapter = line
        elif not inside and line.startswith("JOB "):
            chapter = line.split("  ")[0]
        elif line == "```sh":
            inside, block = True, []
        elif line == "```":
            inside = False
            found.setdefault(chapter, []).append("\n".join(block))
        elif inside:
            block.append(line)
    return found


def prepared(chapters: dict[str, list[str]]) -> str:
    """Returns the commands of chapters 1 to 3, which come before every restore."""
    return "\n".join(block for name, all_of in chapters.items() if name[:2] in ("1.", "2.", "3.") for block in all_of)


def clean_environment(place: Path, server: PostgresServer) -> dict[str, str]:
    """Returns an environment in which nothing of DataGuardian or of its service is found."""
    tools, home = place / "tools", place / "home"
    tools.mkdir(parents=True)
    home.mkdir()
    (tools / "rclone").symlink_to(program("rclone"))
    path = os.pathsep.join([str(tools), str(server.bin), "/usr/local/bin", "/usr/bin", "/bin"])
    assert shutil.which("dataguardian", path=path) is None
    given = {name: value for name, value in server.environment().items() if name.startswith(("PG", "LD_"))}
    return {**given, "PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}


def define(
    service: Service, server: PostgresServer, s3: S3Server, identity: str, recipient: str
) -> tuple[str, Path, Path]:
    """Two jobs and two storages: a database to a bucket, encrypted for a key; files to a disk, with a passphrase."""
    database = server.database("CREATE TABLE t AS SELECT g AS id, md5(g::text) AS word FROM generate_series(1, 5000) g")
    source, disk = odd_tree(service.folder / "source"), service.folder / "disk of 'last' resort"
    disk.mkdir()
    bucket = {
        "bucket": s3.bucket(),
        "prefix": "of/ours",
        "endpoint": f"http://127.0.0.1:{s3.port}",
        "region": "us-east-1",
    }
    keys = {"access_key_id": s3.owner.access_key, "secret_access_key": s3.owner.secret_key}
    config = {
        "host": "127.0.0.1",
        "port": server.port,
        "database": database,
        "username": SUPERUSER,
        "password": PASSWORD,
    }
    with service.client() as client:
        client.put("/api/system/settings/decryption", {"value": {"identities": [identity]}})
        cloud = client.post(STORAGE.path, {"name": "cloud", "type": "s3", "config": {**bucket, **keys}})
        plate = client.post(STORAGE.path, {"name": "disk", "type": "local", "config": {"path": str(disk)}})
        shop = client.post(DATASOURCE.path, {"name": "shop", "type": "postgres", "connection_config": config})
        tree_ = client.post(
            DATASOURCE.path, {"name": "tree", "type": "files", "connection_config": {"source_path": str(source)}}
        )
        options: dict[str, Any] = {"encryption": {"recipients": [recipient]}, "part_size_mb": 1}
        client.post(
            JOB.path,
            {
                "name": "shop",
                "datasource_id": shop["id"],
                "storage_location_id": cloud["id"],
                "backup_options": options,
            },
        )
        options = {"encryption": {"passphrase": PASSPHRASE}, "part_size_mb": 1}
        client.post(
            JOB.path,
            {
                "name": "the tree",
                "datasource_id": tree_["id"],
                "storage_location_id": plate["id"],
                "backup_options": options,
            },
        )
    service.told("job", "edit", "dataguardian", "--storage", "disk")
    return database, source, disk


@pytest.fixture(scope="module")
def lost(postgres17: PostgresServer) -> Iterator[Lost]:
    require_tool("age")
    service = Service(short_folder())
    service.start()
    key_file, words = service.folder / "key", service.folder / "words"
    recipient = service.ok("key", "generate", str(key_file))["recipient"]
    database, source, disk = define(service, postgres17, shared(moto_s3), key_file.read_text(), recipient)
    for job in ("shop", "the tree", "dataguardian"):
        assert service.backup(job)["status"] == "completed"
    words.write_text(f"{KIT_PASSPHRASE}\n")
    words.chmod(0o600)
    kit = service.folder / "kit.age"
    taken = service.ok("recovery-kit", "--output", str(kit), "--passphrase-file", str(words))
    assert (taken["gaps"], taken["jobs"], taken["storages"]) == ([], 3, 3)
    assert service.stop() == 0
    secrets = [PASSPHRASE, key_file.read_text().splitlines()[-1], KIT_PASSPHRASE]
    yield Lost(service, kit, disk, database, source, secrets)
    cleared(service.folder)


@pytest.fixture
def document(lost: Lost, tmp_path: Path) -> str:
    """The kit's text, as the stock age gives it to who types the passphrase."""
    assert lost.kit.stat().st_mode & 0o777 == 0o600
    on_terminal(f"age -d -o kit.txt '{lost.kit}'", KIT_PASSPHRASE, tmp_path, dict(os.environ))
    return (tmp_path / "kit.txt").read_text()


def test_stock_tools_alone_restore_everything(
    lost: Lost, document: str, postgres17: PostgresServer, tmp_path: Path
) -> None:
    """On an empty machine, without DataGuardian: bash runs what the kit quotes, and all is there again."""
    chapters, env = blocks(document), clean_environment(tmp_path / "machine", postgres17)
    expected = postgres_content(postgres17, lost.database)
    postgres17.execute("postgres", f"ALTER DATABASE {lost.database} RENAME TO {lost.database}_original")
    hidden = lost.service.home.rename(lost.service.home.with_name("burnt"))
    place = tmp_path / "recovery"
    place.mkdir()
    try:
        script = "\n".join(["set -e", prepared(chapters), *chapters["JOB shop"], *chapters["JOB dataguardian"]])
        assert "python" not in script
        done = subprocess.run(["bash"], input=script, cwd=place, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert "WRONG" not in done.stdout
        assert postgres_content(postgres17, lost.database) == expected
        again = tmp_path / "again"
        again.mkdir()
        script = "\n".join(["set -e", prepared(chapters), *chapters["JOB the tree"]])
        on_terminal(script, PASSPHRASE, again, env)
    finally:
        hidden.rename(lost.service.home)
        postgres17.drop(lost.database)
        postgres17.execute("postgres", f"ALTER DATABASE {lost.database}_original RENAME TO {lost.database}")
    [target] = [path for path in again.rglob("target") if path.is_dir()]
    assert tree(target) == tree(lost.source)
    [own] = place.rglob("restored.db")
    tables = subprocess.run(
        ["sqlite3", own, "SELECT name FROM backup_jobs"], capture_output=True, text=True, check=True
    )
    assert set(tables.stdout.split("\n")) >= {"shop", "the tree", "dataguardian"}


def test_an_empty_home_comes_back_with_its_secrets(lost: Lost, document: str, tmp_path: Path) -> None:
    """With DataGuardian: the key and the catalogue are put back, and the next backup signs in with the old password."""
    chapters = blocks(document)
    revived = Service(short_folder())
    place = tmp_path / "recovery"
    place.mkdir()
    script = "\n".join(["set -e", prepared(chapters), *chapters["4. ALL OF IT, WITH DATAGUARDIAN"]])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**revived.environment, "DATAGUARDIAN_HOME": str(revived.folder / "home"), "PATH": path}
    done = subprocess.run(["bash"], input=script, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    try:
        revived.start()
        for job in ("shop", "the tree"):
            assert revived.backup(job)["status"] == "completed"
        proofs = revived.client().rows("/api/system/key-proofs")
        assert {row["job_name"] for row in proofs} == {"shop", "the tree"}
        assert revived.stop() == 0
    finally:
        if revived.process is not None and revived.process.poll() is None:
            revived.process.kill()
            revived.process.wait()
        cleared(revived.folder)


def test_a_slip_of_the_pen_is_told(document: str, tmp_path: Path) -> None:
    """Whoever mistypes a group learns in which line; whoever leaves a line out learns that something is wrong."""
    chapters = blocks(document)
    [head], [first, *_] = chapters["1. FIRST, ON THE NEW MACHINE"], chapters["2. KEYS AND PASSWORDS"]
    lines = first.split("\n")
    other = "x" if lines[2][0] != "x" else "y"
    wrong = "\n".join([*lines[:2], other + lines[2][1:], *lines[3:]])
    for typed, told in (
        (first, "k1: right"),
        (wrong, "line 2 is WRONG"),
        ("\n".join(lines[:2] + lines[3:]), "k1: WRONG"),
    ):
        script = f"{head}\n{typed}"
        done = subprocess.run(["bash"], input=script, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert told in done.stdout, done
        assert (done.returncode == 0) == (told == "k1: right")


def test_a_kit_leaves_no_trace_of_what_it_says(lost: Lost) -> None:
    """Neither catalogue nor log has a secret of it; the audit log says that it was taken, and nothing else."""
    held = b"".join(path.read_bytes() for path in lost.service.home.glob("catalogue.db*")) + lost.service.log.encode()
    for secret in lost.secrets:
        assert secret.encode() not in held
        assert json.dumps(secret).encode()[1:-1] not in held
    assert b"recovery_kit.create" in held


def test_a_kit_is_not_given_away_by_mistake(lost: Lost, tmp_path: Path) -> None:
    """It never replaces a file, is never shown in clear unless somebody says so, and then with a warning."""
    service = lost.service
    assert "exists already" in service.refused(2, "recovery-kit", "--plain", "--output", str(lost.kit))
    assert "--plain" in service.refused(2, "recovery-kit", "--print")
    assert "passphrase is needed" in service.refused(2, "recovery-kit", "--output", str(tmp_path / "kit"))
    assert not (tmp_path / "kit").exists()
    outcome = service.run("recovery-kit", "--plain", "--print")
    assert "holds every backup" in outcome.err
    assert PASSPHRASE in outcome.out
