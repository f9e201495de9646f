"""Configuration as code: a file becomes the service, twice the same is nothing, and no secret is ever told."""

from __future__ import annotations

import os
import pty
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dataguardian.cli.declared import declared
from dataguardian.cli.yamlfile import Unset, read_yaml
from dataguardian.domain.errors import UsageError
from tests.cli.service import Service, cleared, short_folder

SECRET = "Hunter2-Hunter2"
TOKEN = "tok-0123456789"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A service of this module's own: what `export` says depends on everything that is there."""
    made = Service(short_folder())
    made.start()
    yield made
    assert made.stop() == 0
    cleared(made.folder)


@pytest.fixture
def names() -> dict[str, str]:
    """Names that no other test has."""
    mark = uuid.uuid4().hex[:8]
    return {"shop": f"shop {mark}", "disk": f"disk {mark}", "job": f"job {mark}", "hook": f"hook {mark}"}


def written(folder: Path, names: dict[str, str], **changes: str) -> Path:
    """Writes a file that declares one thing of each kind."""
    (folder / "hook-secret").write_text("a-secret-of-a-hook\n")
    text = f"""\
version: 1
datasources:
  {names["shop"]}:
    url: postgresql://app@db.example.org:5433/shop
    connection_config:
      password: ${{SHOP_PASSWORD}}
    tags: [{changes.get("tag", "prod")}]
storage_locations:
  {names["disk"]}:
    type: local
    config: {{path: /srv/backups}}
backup_jobs:
  {names["job"]}:
    datasource: {names["shop"]}
    storage_location: {names["disk"]}
    schedule_cron: "{changes.get("cron", "0 4 * * *")}"
    retention_policy: {{keep_daily: {changes.get("keep", "9")}}}
settings:
  notifications:
    channels:
      {names["hook"]}:
        type: webhook
        url: https://hooks.example.org/${{HOOK_TOKEN}}
        secret: {{file: hook-secret}}
"""
    path = folder / "dataguardian.yaml"
    path.write_text(text)
    return path


ENV = {"SHOP_PASSWORD": SECRET, "HOOK_TOKEN": TOKEN}


def test_a_file_is_applied_and_then_there_is_nothing_to_change(
    service: Service, tmp_path: Path, names: dict[str, str]
) -> None:
    """Dry run, apply, apply again: the difference is shown first, made once, and secrets stay unsaid."""
    file = str(written(tmp_path, names))
    dry = service.told("apply", "-f", file, "--dry-run", env=ENV)
    assert f"+ datasource {names['shop']}" in dry
    assert "connection_config.password: ${SHOP_PASSWORD}" in dry
    assert "{file: hook-secret}" in dry
    service.refused(5, "datasource", "show", names["shop"])
    done = service.run("apply", "-f", file, "--yes", env=ENV)
    assert done.code == 0, done
    assert "done: 4 changes" in done.out
    again = service.told("apply", "-f", file, env=ENV)
    assert again == "nothing to change\n"
    assert service.ok("apply", "-f", file, env=ENV) == {"changes": [], "applied": False, "warnings": []}
    row = service.ok("datasource", "show", names["shop"])
    assert row["connection_config"]["port"] == 5433
    assert row["updated_at"] == row["created_at"]
    job = service.ok("job", "show", names["job"])
    assert (job["datasource_id"], job["retention_policy"]["keep_daily"]) == (row["id"], 9)
    for secret in (SECRET, TOKEN, "a-secret-of-a-hook"):
        assert secret not in dry + done.out + done.err + again + service.log


def test_only_what_differs_is_changed(service: Service, tmp_path: Path, names: dict[str, str]) -> None:
    """One number in the file is one line of difference; what the file does not mention stays as people set it."""
    service.ok("apply", "-f", str(written(tmp_path, names)), "--yes", env=ENV)
    service.ok("job", "edit", names["job"], "--keep-weekly", "2")
    told = service.told("apply", "-f", str(written(tmp_path, names, keep="5")), "--yes", env=ENV)
    assert told.splitlines()[:2] == [f"~ backup job {names['job']}", "    retention_policy.keep_daily: 9 -> 5"]
    policy = service.ok("job", "show", names["job"])["retention_policy"]
    assert (policy["keep_daily"], policy["keep_weekly"]) == (5, 2)


def test_a_file_says_what_is_no_production(service: Service, tmp_path: Path, names: dict[str, str]) -> None:
    """`production: false` is one difference, is exported, and is left alone by a file that does not mention it."""
    file = written(tmp_path, names)
    service.ok("apply", "-f", str(file), "--yes", env=ENV)
    silent = file.read_text()
    file.write_text(silent.replace("    tags: [prod]\n", "    tags: [prod]\n    production: false\n"))
    (change,) = service.ok("apply", "-f", str(file), "--yes", env=ENV)["changes"]
    assert change["differences"] == [{"field": "production", "before": True, "after": False}]
    assert yaml.safe_load(service.told("export"))["datasources"][names["shop"]]["production"] is False
    file.write_text(silent)
    assert service.told("apply", "-f", str(file), env=ENV) == "nothing to change\n"


def test_a_changed_secret_is_noticed_although_it_is_masked(
    service: Service, tmp_path: Path, names: dict[str, str]
) -> None:
    """Another password in the environment is a change; the difference names the variable and no value."""
    file = str(written(tmp_path, names))
    service.ok("apply", "-f", file, "--yes", env=ENV)
    changed = ENV | {"SHOP_PASSWORD": "Another-Secret-1"}
    (change,) = service.ok("apply", "-f", file, "--dry-run", env=changed)["changes"]
    assert change["differences"] == [
        {"field": "connection_config.password", "before": "**********", "after": "${SHOP_PASSWORD}"}
    ]
    service.ok("apply", "-f", file, "--yes", env=changed)
    assert service.told("apply", "-f", file, env=changed) == "nothing to change\n"


def test_a_variable_that_is_not_set_keeps_a_stored_secret_and_only_that(
    service: Service, tmp_path: Path, names: dict[str, str]
) -> None:
    """Before the secret is stored, a missing variable is an error with its line; afterwards a warning."""
    file = str(written(tmp_path, names))
    told = service.refused(2, "apply", "-f", file, "--yes")
    assert f"{file}:6: the variable SHOP_PASSWORD is not set" in told
    assert "HOOK_TOKEN is not set" in told
    service.ok("apply", "-f", file, "--yes", env=ENV)
    outcome = service.run("apply", "-f", file)
    assert (outcome.code, outcome.out) == (0, "nothing to change\n")
    assert "SHOP_PASSWORD is not set" in outcome.err
    assert service.ok("apply", "-f", file, "--dry-run", env=ENV)["changes"] == []


def test_an_export_applies_as_nothing(service: Service, tmp_path: Path, names: dict[str, str]) -> None:
    """What `export` writes has a variable for each secret, and applied to the same service changes nothing."""
    service.ok("apply", "-f", str(written(tmp_path, names)), "--yes", env=ENV)
    exported = tmp_path / "exported.yaml"
    service.told("export", "--out", str(exported))
    document = yaml.safe_load(exported.read_text())
    password = document["datasources"][names["shop"]]["connection_config"]["password"]
    assert password == "${" + names["shop"].upper().replace(" ", "_") + "_PASSWORD}"
    assert service.told("apply", "-f", str(exported), "--prune") == "nothing to change\n"
    assert "dataguardian" not in document["datasources"], "the service's own backup is its own business"
    assert SECRET not in exported.read_text()
    assert service.ok("export") == document


def test_an_export_builds_another_service(
    service: Service, own_service: Service, tmp_path: Path, names: dict[str, str]
) -> None:
    """The exported file and the secrets make an empty service equal, but for its ids."""
    service.ok("apply", "-f", str(written(tmp_path, names)), "--yes", env=ENV)
    document = service.ok("export")
    exported = tmp_path / "exported.yaml"
    exported.write_text(service.told("export"))
    own_service.start()
    variables = {
        text[2:-1]: "https://example.org/hook" for text in _texts(document) if text.startswith("${") and text[-1] == "}"
    }
    own_service.ok("apply", "-f", str(exported), "--yes", env=variables)
    assert own_service.ok("export") == document


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(item)


def test_prune_removes_what_the_sections_leave_out(own_service: Service, tmp_path: Path, names: dict[str, str]) -> None:
    """With --prune the rest goes, users first; what backs up the service itself and sections not there stay."""
    own_service.start()
    own_service.ok("apply", "-f", str(written(tmp_path, names)), "--yes", env=ENV)
    (tmp_path / "empty.yaml").write_text("datasources: {}\nbackup_jobs: {}\n")
    told = own_service.told("apply", "-f", str(tmp_path / "empty.yaml"), "--prune", "--yes")
    assert told.splitlines()[:2] == [f"- backup job {names['job']}", f"- datasource {names['shop']}"]
    own_service.ok("storage", "show", names["disk"])
    own_service.ok("datasource", "show", "dataguardian")
    assert own_service.told("apply", "-f", str(tmp_path / "empty.yaml")) == "nothing to change\n"


def test_further_storage_locations_are_names(service: Service, tmp_path: Path, names: dict[str, str]) -> None:
    """A job's storage_targets are names in the file, whether they are there already or declared beside it; the job has
    their ids, `export` tells the names again, and applying that is nothing.
    """
    file = written(tmp_path, names)
    text = file.read_text().replace(
        "backup_jobs:",
        f"  further {names['disk']}:\n    type: local\n    config: {{path: /srv/further}}\nbackup_jobs:",
    )
    options = f"    backup_options: {{storage_targets: ['further {names['disk']}'], storage_strategy: fallback}}\n"
    text = text.replace(f"    storage_location: {names['disk']}\n", f"    storage_location: {names['disk']}\n{options}")
    file.write_text(text)
    dry = service.told("apply", "-f", str(file), "--dry-run", env=ENV)
    assert f'backup_options.storage_targets: ["further {names["disk"]}"]' in dry
    service.ok("apply", "-f", str(file), "--yes", env=ENV)
    assert service.told("apply", "-f", str(file), env=ENV) == "nothing to change\n"
    further = service.ok("storage", "show", f"further {names['disk']}")["id"]
    assert service.ok("job", "show", names["job"])["backup_options"]["storage_targets"] == [further]
    exported = yaml.safe_load(service.told("export"))["backup_jobs"][names["job"]]["backup_options"]
    assert exported["storage_targets"] == [f"further {names['disk']}"]
    file.write_text(text.replace("storage_targets: ['further", "storage_targets: ['farther"))
    refused = service.refused(2, "apply", "-f", str(file), "--yes", env=ENV)
    assert "there is no storage location 'farther" in str(refused)
    file.write_text(text.replace(f"['further {names['disk']}']", "[]"))
    service.ok("apply", "-f", str(file), "--yes", env=ENV)
    assert service.ok("job", "show", names["job"])["backup_options"]["storage_targets"] == []


PASSPHRASE = "correct horse ${battery} staple"


@pytest.mark.parametrize("way", ["variable", "file", "recipients"])
def test_a_job_s_encryption_goes_there_and_back(
    service: Service, tmp_path: Path, names: dict[str, str], way: str
) -> None:
    """Applied twice and exported, nothing differs; the passphrase is named and not told; another one is a change."""
    key, other = (service.ok("key", "generate", str(tmp_path / name))["recipient"] for name in ("one", "two"))
    (tmp_path / "phrase").write_text(PASSPHRASE + "\n")
    given = {"variable": "{passphrase: '${PHRASE}'}", "file": "{passphrase: {file: phrase}}"}
    given["recipients"] = f"{{recipients: ['{key}', '{other}']}}"
    told = {"variable": "passphrase: ${PHRASE}", "file": "passphrase: {file: phrase}", "recipients": other}
    file, env = written(tmp_path, names), ENV | {"PHRASE": PASSPHRASE}
    plain = file.read_text()
    file.write_text(_encrypted(plain, names, given[way]))
    dry = service.run("apply", "-f", str(file), "--dry-run", env=env)
    assert told[way] in dry.out
    done = service.run("apply", "-f", str(file), "--yes", env=env)
    assert done.code == 0, done
    again = service.run("apply", "-f", str(file), env=env)
    assert again.out == "nothing to change\n"
    exported = tmp_path / "exported.yaml"
    service.told("export", "--out", str(exported))
    options = yaml.safe_load(exported.read_text())["backup_jobs"][names["job"]]["backup_options"]
    variable = names["job"].upper().replace(" ", "_") + "_ENCRYPTION_PASSPHRASE"
    is_phrase = way != "recipients"
    assert options["encryption"] == ({"passphrase": f"${{{variable}}}"} if is_phrase else {"recipients": [key, other]})
    assert service.told("apply", "-f", str(exported)) == "nothing to change\n"
    assert service.told("apply", "-f", str(exported), env={variable: PASSPHRASE}) == "nothing to change\n"
    if is_phrase:
        (tmp_path / "phrase").write_text("another horse")
        changed = env | {"PHRASE": "another horse"}
        (change,) = service.ok("apply", "-f", str(file), "--yes", env=changed)["changes"]
        assert [item["field"] for item in change["differences"]] == ["backup_options.encryption.passphrase"]
        assert service.told("apply", "-f", str(file), env=changed) == "nothing to change\n"
    seen = f"{dry}{done}{again}{exported.read_text()}{service.log}{service.ok('job', 'show', names['job'])}"
    assert "correct horse" not in seen
    assert "another horse" not in service.log


def test_a_job_s_encryption_becomes_another_or_none(service: Service, tmp_path: Path, names: dict[str, str]) -> None:
    """From a passphrase to recipients and to nothing; a file that does not mention it leaves it alone."""
    key = service.ok("key", "generate", str(tmp_path / "key"))["recipient"]
    file, env = written(tmp_path, names), ENV | {"PHRASE": PASSPHRASE}
    plain = file.read_text()
    for given in ("{passphrase: '${PHRASE}'}", f"{{recipients: ['{key}']}}", "{passphrase: '${PHRASE}'}", "null"):
        file.write_text(_encrypted(plain, names, given))
        service.ok("apply", "-f", str(file), "--yes", env=env)
        assert service.told("apply", "-f", str(file), env=env) == "nothing to change\n"
        file.write_text(plain)
        assert service.told("apply", "-f", str(file), env=env) == "nothing to change\n"
    assert service.ok("job", "show", names["job"])["backup_options"]["encryption"] is None


def _encrypted(text: str, names: dict[str, str], encryption: str) -> str:
    line = f"    storage_location: {names['disk']}\n"
    assert line in text
    return text.replace(line, f"{line}    backup_options: {{encryption: {encryption}}}\n")


def test_what_is_in_use_is_not_pruned(service: Service, tmp_path: Path) -> None:
    """A job with a backup cannot go: the error says so, and what had been done before it."""
    thing = service.prepared()
    service.backup(thing.name)
    file = tmp_path / "f.yaml"
    kept = service.ok("export")
    del kept["backup_jobs"][thing.name]
    file.write_text(yaml.safe_dump(kept))
    told = service.refused(1, "apply", "-f", str(file), "--prune", "--yes")
    assert f"{thing.name} is in use" in told
    service.ok("job", "show", thing.name)


def test_it_asks_on_a_terminal(service: Service, tmp_path: Path, names: dict[str, str]) -> None:
    """A person sees the difference and says no: nothing is done. Without a terminal it wants --yes."""
    file = str(written(tmp_path, names))
    assert "--yes" in service.refused(2, "apply", "-f", file, env=ENV)
    master, slave = pty.openpty()
    process = service.begin("apply", "-f", file, env=ENV, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(master, 4096)
    os.write(master, b"n\n")
    assert process.wait(60) == 1
    os.close(master)
    service.refused(5, "datasource", "show", names["shop"])


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("datasources:\n  a: [1\n", 3, "not YAML"),
        ("datasources:\n  a: {}\n  a: {}\n", 3, "is there twice"),
        ("sources: {}\n", 1, "sources is not known here"),
        ("datasources:\n  a:\n    type: files\n    path: /x\n", 4, "a.path is not known here"),
        ("datasources:\n  a: 7\n", 2, "is no mapping"),
        ("datasources:\n  a:\n    tags: []\n", 2, "a new one needs a type or an url"),
        ("datasources:\n  a:\n    type: oracle\n", 2, "there is no engine 'oracle'"),
        (
            "datasources:\n  a:\n    type: postgres\n    connection_config:\n      host: h\n      port: many\n",
            6,
            "port: Input should be a valid integer",
        ),
        ("datasources:\n  a:\n    url: gopher://x\n", 2, "no engine handles"),
        ("datasources:\n  a:\n    url: postgresql://u:${PW}@h/d\n", 2, "without ${…}"),
        ("backup_jobs:\n  a:\n    schedule_cron: '@daily'\n", 2, "needs a datasource"),
        ("backup_jobs:\n  a:\n    datasource: nobody\n", 3, "there is no datasource 'nobody'"),
        (
            "backup_jobs:\n  a:\n    datasource: dataguardian\n    retention_policy:\n      keep_daily: -1\n",
            5,
            "keep_daily",
        ),
        (
            "backup_jobs:\n  a:\n    datasource: dataguardian\n    backup_options:\n      speed: 11\n",
            5,
            "speed: Extra inputs",
        ),
        ("backup_jobs:\n  a:\n    datasource: dataguardian\n    schedule_cron: never\n", 2, "never"),
        ("settings:\n  coffee: {}\n", 2, "there is no setting 'coffee'"),
        ("settings:\n  notifications:\n    routes:\n      - channels: [nobody]\n", 2, "nobody"),
        ("version: 7\n", 1, "version 1"),
        ("datasources:\n  dataguardian:\n    type: files\n", 3, "cannot become files"),
        ("datasources: !!python/object:os.system {}\n", 1, "the tag"),
        ("datasources:\n  a: &x\n    connection_config: *x\n", 3, "aliases"),
        ("datasources:\n  a:\n    type: ${9}\n", 3, "names no variable"),
        ("datasources:\n  a:\n    connection_config:\n      password: {file: /nowhere}\n", 4, "cannot be read"),
        (
            "storage_locations:\n  a: {type: local, is_default: true}\n  b: {type: local, is_default: true}\n",
            3,
            "default already",
        ),
    ],
)
def test_mistakes_are_told_with_their_lines(service: Service, tmp_path: Path, text: str, line: int, words: str) -> None:
    """Whatever is wrong, in the file or by the service's rules, is exit 2 with the line, and nothing is done."""
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    told = service.refused(2, "apply", "-f", str(file), "--yes")
    assert f"{file}:{line}: " in told, told
    assert words in told, told


def test_all_mistakes_are_told_at_once(service: Service, tmp_path: Path) -> None:
    """Two wrong jobs are two lines, not two runs."""
    file = tmp_path / "wrong.yaml"
    file.write_text("backup_jobs:\n  a:\n    datasource: x\n  b:\n    datasource: y\n")
    told = service.refused(2, "apply", "-f", str(file))
    assert f"{file}:3: " in told
    assert f"{file}:5: " in told


def test_a_file_that_is_not_there(service: Service, tmp_path: Path) -> None:
    """The hint says how to get one."""
    assert "export" in service.refused(2, "apply", "-f", str(tmp_path / "no.yaml"))


def test_the_documented_example_applies(service: Service, tmp_path: Path) -> None:
    """The file that docs/configuration.md shows passes every check of the service."""
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "hook").write_text("a-secret-of-a-hook")
    file = tmp_path / "dataguardian.yaml"
    file.write_text(example.replace("/run/secrets/hook", "hook"))
    changes = service.ok("apply", "-f", str(file), "--dry-run", env=ENV)["changes"]
    assert [change["action"] for change in changes] == ["create"] * 5 + ["change"] * 2


def test_references_are_resolved_and_escaped() -> None:
    """`${NAME}` inside a text, `$${` for a plain one, an empty variable as good as none."""
    file = read_yaml(
        "f", "a: x${ONE}y\nb: $${ONE}\nc: ${NONE}\nd: 22:30\ne: 2026-01-02\n", Path(), {"ONE": "1", "NONE": ""}
    )
    assert file.document["a"] == "x1y"
    assert file.document["b"] == "${ONE}"
    assert file.document["c"] == Unset("NONE")
    assert file.document["e"] == "2026-01-02"
    assert file.where(("c",)) == "f:3"


def test_an_empty_file_declares_nothing() -> None:
    """No sections: nothing is touched, and nothing would be pruned."""
    found = declared(read_yaml("f", "# nothing\n", Path(), {}))
    assert (found.sections, found.entries, found.settings) == ((), [], {})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{path: ../../etc}", "absolute"),
        ('{path: "/srv/a\\0b"}', ""),
        ("{path: /srv, prefix: ../../etc}", ""),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(service: Service, tmp_path: Path, config: str, words: str) -> None:
    """A storage location is an absolute path or none; nothing of the file is applied."""
    file = tmp_path / "file.yml"
    name = f"evil {uuid.uuid4().hex[:8]}"
    file.write_text(f"version: 1\nstorage_locations:\n  {name}:\n    type: local\n    config: {config}\n")
    assert words in service.refused(2, "apply", "-f", str(file), "--yes")
    assert name not in [row["name"] for row in service.ok("storage", "list")["data"]]


def test_a_name_that_climbs_stays_in_its_storage(service: Service, tmp_path: Path) -> None:
    """Names are what people like, dots and slashes too; what a job stores lies in its storage all the same."""
    mark = uuid.uuid4().hex[:8]
    source, disk, name = service.tree(f"{mark}-source"), tmp_path / "deep" / "er" / "disk", f"../../../{mark}/$(id)"
    disk.mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if disk not in path.parents}
    document = {
        "version": 1,
        "datasources": {name: {"type": "files", "connection_config": {"source_path": str(source)}}},
        "storage_locations": {name: {"type": "local", "config": {"path": str(disk)}}},
        "backup_jobs": {name: {"datasource": name, "storage_location": name}},
    }
    file = tmp_path / "file.yml"
    file.write_text(yaml.safe_dump(document))
    service.told("apply", "-f", str(file), "--yes")
    assert service.ok("job", "run", name, "--wait")["status"] == "completed"
    assert list(disk.rglob("manifest.json"))
    assert {path for path in tmp_path.rglob("*") if disk not in path.parents} - before == {file}


def test_a_bomb_of_aliases_is_refused() -> None:
    """A small file that unfolds into millions of values is stopped early."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(UsageError, match="aliases"):
        read_yaml("f", "\n".join(lines), Path(), {})
