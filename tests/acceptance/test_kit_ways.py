"""The ways to take a recovery kit: for whom it is encrypted, who types what, where it goes, and what is told of it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dataguardian.service.vault import Key
from tests.acceptance.test_by_hand import on_terminal
from tests.acceptance.test_recovery_kit import blocks, clean_environment, prepared
from tests.cli.service import Service, cleared, short_folder
from tests.conftest import require_tool
from tests.servers import PASSWORD, PostgresServer

HEADING = "DATAGUARDIAN RECOVERY KIT"
WORDS = "Grüße, seven words nobody  wrote"
OTHER = "other words than those before"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A service with one job, which runs while kits are taken."""
    require_tool("age")
    made = Service(short_folder())
    try:
        made.start()
        made.backup(made.prepared().name)
        yield made
    finally:
        made.kill()
        cleared(made.folder)


def talked(service: Service, arguments: Sequence[str], answers: Sequence[str]) -> tuple[int, str]:
    """Runs the command line on a terminal and answers each prompt; returns its exit code and what was to be seen."""
    child, terminal = pty.fork()
    if child == 0:
        command = [sys.executable, "-m", "dataguardian", *arguments]
        os.execvpe(sys.executable, command, service.environment)
    seen, waiting, start = b"", list(answers), 0
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux says that nobody has the terminal any more
            piece = b""
        if not piece:
            break
        seen += piece
        if waiting and seen[start:].rstrip().endswith(b":"):
            start = len(seen)
            os.write(terminal, waiting.pop(0).encode() + b"\n")
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert waiting == [], seen.decode()
    return code, seen.decode()


def test_a_passphrase_is_typed_twice_and_never_seen(service: Service, tmp_path: Path) -> None:
    """Two prompts without an echo; the stock age opens the kit with what was typed."""
    kit = tmp_path / "kit.age"
    code, seen = talked(service, ["recovery-kit", "--output", str(kit)], [WORDS, WORDS])
    assert code == 0, seen
    assert ("passphrase of the kit: " in seen, "once more: " in seen, WORDS in seen) == (True, True, False)
    assert kit.stat().st_mode & 0o777 == 0o600
    on_terminal(f"age -d -o kit.txt '{kit}'", WORDS, tmp_path, dict(os.environ))
    assert (tmp_path / "kit.txt").read_text().startswith(HEADING)


def test_two_passphrases_are_refused(service: Service, tmp_path: Path) -> None:
    """So is one that is too short; no file is written, and nobody is believed to hold a kit of then."""
    before = service.ok("status")["recovery_kit"]["taken_at"]
    for answers, told in (([WORDS, OTHER], "not the same"), (["short", "short"], "at least 10 characters")):
        code, seen = talked(service, ["recovery-kit", "--output", str(tmp_path / "kit.age")], answers)
        assert (code, told in seen, any(answer in seen for answer in answers if len(answer) > 5)) == (2, True, False)
    assert list(tmp_path.iterdir()) == []
    assert service.ok("status")["recovery_kit"]["taken_at"] == before


@pytest.mark.parametrize("kind", ["age", "ssh-ed25519", "ssh-rsa", "both"])
def test_a_kit_for_public_keys(service: Service, tmp_path: Path, kind: str) -> None:
    """The stock age opens it with each of the private keys, and nobody is asked for anything."""
    keys = []
    if kind in ("age", "both"):
        keys.append((tmp_path / "age.key", service.ok("key", "generate", str(tmp_path / "age.key"))["recipient"]))
    if kind != "age":
        file, type_ = tmp_path / "ssh", kind.removeprefix("ssh-") if kind != "both" else "ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", type_, "-N", "", "-f", file], check=True)
        keys.append((file, file.with_suffix(".pub").read_text().strip()))
    options = [word for _, public in keys for word in ("--recipient", public)]
    kit = tmp_path / "kit.age"
    told = service.told("recovery-kit", "--output", str(kit), *options)
    assert f"age -d -i KEYFILE {kit}" in told.replace("\n", " ")
    for file, _ in keys:
        opened = subprocess.run(["age", "-d", "-i", file, kit], capture_output=True, check=True)
        assert opened.stdout.decode().startswith(HEADING)
    assert service.ok("status")["recovery_kit"]["protection"] == "recipients"


def test_a_kit_replaces_a_file_only_when_told(service: Service, tmp_path: Path) -> None:
    """A file, a link and a folder of that name are left as they are; with --replace the file is another one."""
    there, link, folder = tmp_path / "there", tmp_path / "link", tmp_path / "folder"
    there.write_text("precious")
    there.chmod(0o644)
    link.symlink_to(tmp_path / "nowhere")
    folder.mkdir()
    for path in (there, link, folder):
        service.refused(2, "recovery-kit", "--plain", "--output", str(path))
    service.refused(2, "recovery-kit", "--plain", "--replace", "--output", str(folder))
    assert (there.read_text(), (tmp_path / "nowhere").exists()) == ("precious", False)
    service.ok("recovery-kit", "--plain", "--replace", "--output", str(there))
    assert there.read_text().startswith(HEADING)
    assert there.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "there"]


def test_a_kit_is_noted_and_nothing_of_it_kept(service: Service, tmp_path: Path) -> None:
    """The audit log says who took it and how it is protected; neither it, the log nor the home has a word of it."""
    words = tmp_path / "words"
    words.write_text(f"{WORDS}\n")
    words.chmod(0o600)
    service.ok("recovery-kit", "--output", str(tmp_path / "kit.age"), "--passphrase-file", str(words))
    last = service.ok("audit", "list", "--limit", "1")
    text = json.dumps(last)
    assert ("recovery_kit.create" in text, '"passphrase"' in text) == (True, True)
    held = b"".join(path.read_bytes() for path in service.home.glob("catalogue.db*")) + service.log.encode()
    key = next(line for line in (service.home / "secret.key").read_text().splitlines() if not line.startswith("#"))
    for secret in (WORDS, key, HEADING):
        assert secret.encode() not in held
        assert secret not in text


@pytest.mark.parametrize("way", ["variable", "file"])
def test_a_catalogue_in_postgres_comes_back(postgres17: PostgresServer, tmp_path: Path, way: str) -> None:
    """Its key was given from outside: the kit has it all the same, and the address, and a new home works with both."""
    key, name = Key.generate(), postgres17.database()
    place = tmp_path / "key of the service"
    place.write_text(f"{key.text}\n")
    place.chmod(0o600)
    given = {"DATAGUARDIAN_SECRET_KEY": key.text} if way == "variable" else {"DATAGUARDIAN_SECRET_KEY_FILE": str(place)}
    service = Service(short_folder(), {"DATABASE_URL": postgres17.url(name), **given})
    revived = Service(short_folder())
    kit = tmp_path / "kit"
    try:
        service.start()
        job = service.prepared().name
        service.ok("job", "edit", job, "--passphrase-file", str(_written(tmp_path / "words", WORDS)))
        service.backup(job)
        service.told("job", "edit", "dataguardian", "--storage", job)
        service.backup("dataguardian")
        assert service.ok("recovery-kit", "--plain", "--output", str(kit))["gaps"] == []
        stranger = {"DATAGUARDIAN_SECRET_KEY": "", "DATAGUARDIAN_SECRET_KEY_FILE": ""}
        told = service.refused(1, "recovery-kit", "--plain", "--output", str(tmp_path / "other"), env=stranger)
        assert f"sealed with the key {key.id}" in told
        assert service.stop() == 0
        text = kit.read_text()
        source = "the variable DATAGUARDIAN_SECRET_KEY" if way == "variable" else str(place)
        assert f"{key.id}, from {source}" in text
        assert PASSWORD not in text.split("2. KEYS AND PASSWORDS")[0] + text.split("3. STORAGE LOCATIONS")[1]
        postgres17.execute("postgres", f'ALTER DATABASE "{name}" RENAME TO "{name}_lost"')
        chapters = blocks(text)
        script = ["set -e", prepared(chapters), *chapters["4. ALL OF IT, WITH DATAGUARDIAN"]]
        env = clean_environment(tmp_path / "machine", postgres17) | {"DATAGUARDIAN_HOME": str(revived.home)}
        env = {name: text for name, text in env.items() if not name.startswith("PG")}
        env["PATH"] += f"{os.pathsep}{Path(sys.executable).parent}"
        folder = tmp_path / "an empty folder"
        folder.mkdir()
        done = subprocess.run(
            ["bash"], input="\n".join(script), cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        revived.env["DATABASE_URL"] = postgres17.url(name)
        revived.start()
        assert revived.backup(job)["status"] == "completed"
    finally:
        service.kill()
        revived.kill()
        cleared(service.folder)
        cleared(revived.folder)
        for database in {name, f"{name}_lost"} & postgres17.databases():
            postgres17.drop(database)


def _written(path: Path, text: str) -> Path:
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path
