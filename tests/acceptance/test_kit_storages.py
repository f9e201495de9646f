"""The recovery kit, followed to the letter on an empty machine, for every kind of storage."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataguardian.cli.things import DATASOURCE, JOB, STORAGE
from tests.acceptance.comparing import tree
from tests.acceptance.kit_places import Place, Places
from tests.acceptance.sources import odd_tree
from tests.acceptance.test_recovery_kit import blocks, prepared
from tests.cli.service import Service, cleared, short_folder
from tests.conftest import require_tool
from tests.storage.processes import program

NAMES = [
    "disk",
    "sftp-key",
    "sftp-sealed-key",
    "sftp-first-use",
    "sftp-password",
    "s3-moto",
    "s3-rclone",
    "s3-tls",
    "minio",
    "b2",
    "b2-id",
    "rclone-sftp",
    "rclone-crypt",
]
STOCK = (
    *("bash", "age", "tar", "zstd", "jq", "ssh", "sftp", "ssh-keygen", "ssh-keyscan", "sqlite3", "sed", "grep"),
    *("base64", "cat", "chmod", "cp", "cut", "dirname", "ls", "mkdir", "mktemp", "mv", "paste", "rm", "sha256sum"),
)
"""What chapter 1 of a kit names, coreutils by what is used of them."""


@dataclass
class Burnt:
    """A service whose machine is gone, with every file on it. `kit` is the document; storages survive."""

    service: Service
    kit: str
    places: dict[str, Place]
    source: Path
    machine: Path


def bare(place: Path) -> dict[str, str]:
    """Returns the environment of an empty machine: an empty home, and no program that the kit does not name."""
    tools, home = place / "tools", place / "home"
    tools.mkdir(parents=True)
    home.mkdir()
    paths = {name: require_tool(name) for name in STOCK} | {"rclone": program("rclone")}
    for name, path in paths.items():
        # Each says with which arguments it was called, before it is what it is.
        lines = ["#!/bin/bash", f"printf '%s\\0' \"$@\" >> '{place}/arguments'", f"exec '{path}' \"$@\"", ""]
        (tools / name).write_text("\n".join(lines))
        (tools / name).chmod(0o755)
    return {"PATH": str(tools), "HOME": str(home), "LANG": "C.UTF-8"}


def followed(script: str, place: Path, env: dict[str, str]) -> str:
    """Runs a document's lines in bash, which must all succeed; returns what was said."""
    done = subprocess.run(["bash"], input=script, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "WRONG" not in done.stdout
    return done.stdout


def job_of(
    service: Service, place: Place, source_id: str, encryption: dict[str, Any] | None, *, further: str | None = None
) -> None:
    """Makes a storage location and a job of it, with one backup; `further` names a second place of it."""
    with service.client() as client:
        row = client.post(STORAGE.path, {"name": place.name, "type": place.type, "config": place.config})
        options: dict[str, Any] = {"part_size_mb": 1} | ({"encryption": encryption} if encryption else {})
        if further is not None:
            options["storage_targets"] = [r["id"] for r in client.rows(STORAGE.path) if r["name"] == further]
        job = {"name": f"to {place.name}", "datasource_id": source_id, "storage_location_id": row["id"]}
        client.post(JOB.path, {**job, "backup_options": options})
    assert service.backup(f"to {place.name}")["status"] == "completed"


def keys_of(service: Service) -> list[dict[str, Any] | None]:
    """Returns what jobs are encrypted with in turn: nothing, a key of age's, a key of SSH's; the service has both."""
    age, ssh = service.folder / "age.key", service.folder / "ssh.key"
    recipient = service.ok("key", "generate", str(age))["recipient"]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", ssh], check=True)
    with service.client() as client:
        identities = [age.read_text(), ssh.read_text()]
        client.put("/api/system/settings/decryption", {"value": {"identities": identities}})
    public = ssh.with_suffix(".key.pub").read_text().strip()
    return [None, {"recipients": [recipient]}, {"recipients": [public]}]


@pytest.fixture(scope="module")
def burnt() -> Iterator[Burnt]:
    for name in STOCK:
        require_tool(name)
    service = Service(short_folder())
    with ExitStack() as stack:
        stack.callback(cleared, service.folder)
        machine, disk = service.folder / "machine", service.folder / "disk"
        machine.mkdir()
        disk.mkdir()
        source = odd_tree(service.folder / "source")
        service.start()
        stack.callback(service.kill)
        ways = keys_of(service)
        with service.client() as client:
            config = {"source_path": str(source)}
            row = client.post(DATASOURCE.path, {"name": "tree", "type": "files", "connection_config": config})
        places = Places(stack, machine, disk).all()
        for number, place in enumerate(places):
            job_of(service, place, row["id"], ways[number % len(ways)])
        (machine / "inner disk").mkdir()
        inner = Place("inner", "local", {"path": str(machine / "inner disk")})
        job_of(service, inner, row["id"], None, further="disk")
        service.told("job", "edit", "dataguardian", "--storage", "disk")
        service.backup("dataguardian")
        taken = service.ok("recovery-kit", "--plain", "--output", str(service.folder / "kit"))
        assert taken["gaps"] == []
        assert service.stop() == 0
        machine.rename(service.folder / "burnt machine")
        service.home.rename(service.folder / "burnt home")
        text = (service.folder / "kit").read_text()
        yield Burnt(service, text, {place.name: place for place in places}, source, machine)


def test_every_place_is_tried(burnt: Burnt) -> None:
    """No storage of the list is left out of the tests below."""
    assert list(burnt.places) == NAMES


@pytest.mark.parametrize("name", [*NAMES, "inner"])
def test_stock_tools_fetch_and_restore(burnt: Burnt, tmp_path: Path, name: str) -> None:
    """In an empty folder, with an empty home, bash runs the document's own lines, and the tree is there again.

    `inner` was a disk of the machine, and the backup has a second place.
    """
    chapters, env = blocks(burnt.kit), bare(tmp_path / "machine")
    place = tmp_path / "an empty folder"
    place.mkdir()
    script = "\n".join(["set -e", prepared(chapters), *chapters[f"JOB to {name}"]])
    followed(script, place, env)
    arguments = (tmp_path / "machine" / "arguments").read_bytes()
    for secret in burnt.places[name].secrets if name in burnt.places else ():
        assert secret.encode() not in arguments
    private = [path for path in place.iterdir() if path.is_file()]
    assert {path.stat().st_mode & 0o077 for path in private} == {0}
    assert list((tmp_path / "machine" / "home").rglob("*")) == []
    [target] = [path for path in place.rglob("target") if path.is_dir()]
    assert tree(target) == tree(burnt.source)


@pytest.fixture(scope="module")
def revived(burnt: Burnt) -> Iterator[Service]:
    """DataGuardian on an empty machine, after chapters 1 to 4 of the kit: home and storages' files are back."""
    service, chapters = Service(short_folder()), blocks(burnt.kit)
    with ExitStack() as stack:
        stack.callback(cleared, service.folder)
        place = service.folder / "an empty folder"
        place.mkdir()
        env = bare(service.folder / "bare")
        env["PATH"] += f"{os.pathsep}{Path(sys.executable).parent}"
        env["DATAGUARDIAN_HOME"] = str(service.home)
        script = "\n".join(["set -e", prepared(chapters), *chapters["4. ALL OF IT, WITH DATAGUARDIAN"]])
        followed(script, place, env)
        service.start()
        stack.callback(service.kill)
        yield service


@pytest.mark.parametrize("name", NAMES)
def test_the_revived_service_restores(burnt: Burnt, revived: Service, tmp_path: Path, name: str) -> None:
    """It signs in everywhere as before, by keys, pins and authorities that the kit brought back."""
    target = tmp_path / "again"
    with revived.client() as client:
        job = next(row for row in client.rows(JOB.path) if row["name"] == f"to {name}")
        [newest] = [row for row in client.rows("/api/executions") if row["job_id"] == job["id"]]
        config = {"source_path": str(target)}
        client.post(DATASOURCE.path, {"name": f"for {name}", "type": "files", "connection_config": config})
    into = ("--into", f"for {name}", "--confirm", f"for {name}", "--wait")
    assert revived.ok("execution", "restore", newest["id"], *into)["status"] == "completed"
    assert tree(target) == tree(burnt.source)
    for lost in burnt.places[name].lost:
        assert lost.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["disk", "sftp-password", "s3-moto"])
def test_the_command_line_restores_one_backup(burnt: Burnt, tmp_path: Path, name: str) -> None:
    """Without a service: the kit's own words for the command, in which only the target is somebody's choice."""
    chapters, target, place = blocks(burnt.kit), tmp_path / "again", tmp_path / "an empty folder"
    place.mkdir()
    [_, after] = burnt.kit.split(f"\nJOB to {name}\n")
    found = re.search(r"^  (dataguardian restore .*) TARGET$", after, re.MULTILINE)
    assert found is not None
    directory = re.search(r"^  newest backup: +(\S+)$", after, re.MULTILINE)
    assert directory is not None
    fetch = next(line for line in chapters[f"JOB to {name}"][0].splitlines() if line.startswith("fetch_"))
    env = bare(tmp_path / "machine")
    env["PATH"] += f"{os.pathsep}{Path(sys.executable).parent}"
    script = "\n".join(["set -e", prepared(chapters), fetch, f"{found[1]} 'files://{target}'"])
    followed(script, place, env)
    assert tree(target) == tree(burnt.source)
