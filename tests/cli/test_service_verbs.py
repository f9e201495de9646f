"""The terminal over the API, against a running service: define, back up, look, restore, clean up."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.cli.program import wait_for
from tests.cli.service import Service
from tests.servers import free_port

SECRET = "Hunter2-Hunter2"


def test_no_service_is_told_with_the_way_to_start_one(service: Service) -> None:
    """Nothing listens there: exit 5, and the hint names the verb that would."""
    url = f"http://127.0.0.1:{free_port()}"
    told = service.refused(5, "status", "--url", url)
    assert url in told
    assert "dataguardian up" in told
    assert service.run("job", "list", "--url", url, "--json").json["error"] == "unreachable"


def test_a_stranger_on_the_port_is_no_service(service: Service) -> None:
    """Some other web server answers: it is named as such, and its page is not shown."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>router</html>")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told = service.refused(5, "job", "list", "--url", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "is not DataGuardian" in told


def test_a_service_that_hangs_is_told_apart_from_none(service: Service) -> None:
    """A port that takes connections and says nothing does not keep the terminal for ever."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = service.begin("job", "list", "--url", url)
        connection, _ = silent.accept()
        connection.close()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "no service answers" in err


def test_addresses_that_are_none(service: Service) -> None:
    """An address of another kind is refused before anything is sent."""
    assert "is not the address of a service" in service.refused(2, "status", "--url", "ftp://x")
    assert "is not the address of a service" in service.refused(2, "status", env={"DATAGUARDIAN_URL": "localhost"})


def test_from_a_source_to_a_restore(service: Service) -> None:
    """The whole life: define, test, back up, list, verify deeply, lose the source, restore it, equal."""
    thing = service.prepared()
    assert "answers" in service.told("datasource", "test", thing.name)
    assert "answers" in service.told("storage", "test", thing.name)
    execution = service.backup(thing.name)
    assert execution["status"] == "completed"
    assert (thing.disk / execution["backup_path"] / "manifest.json").exists()
    assert service.ok("execution", "verify", execution["id"], "--deep", "--wait")["ok"] is True
    before = (thing.source / "b.bin").read_bytes()
    shutil.rmtree(thing.source)
    done = service.ok("execution", "restore", execution["id"], "--confirm", thing.name, "--wait")
    assert done["status"] == "completed"
    assert (thing.source / "b.bin").read_bytes() == before


def test_a_run_that_is_watched(service: Service) -> None:
    """`job run --wait` without --json says what became of the backup, and where it lies."""
    thing = service.prepared(size_bytes=5_000_000)
    outcome = service.run("job", "run", thing.name, "--wait")
    assert outcome.code == 0
    assert f"backup of {thing.name} is complete" in outcome.out
    assert "4.8 MiB" in outcome.out


def test_a_job_keeps_to_its_bandwidth(service: Service) -> None:
    """4 MiB in parts of 1 MiB at 20 megabits per second take a second at least; 0 takes the limit away again."""
    thing = service.prepared(size_bytes=4_000_000)
    job = service.ok("job", "edit", thing.name, "--bandwidth-limit", "20", "--part-size", "1MiB")
    assert job["backup_options"]["bandwidth_limit_mbps"] == 20
    assert "bandwidth_limit_mbps" in service.told("job", "show", thing.name)
    assert service.backup(thing.name)["duration_seconds"] >= 1
    job = service.ok("job", "edit", thing.name, "--bandwidth-limit", "0")
    assert job["backup_options"]["bandwidth_limit_mbps"] is None


def test_a_job_names_databases(service: Service) -> None:
    """Only of a datasource that is a whole server; '' takes the names away. No server is asked for it."""
    thing = service.prepared()
    told = service.refused(2, "job", "edit", thing.name, "--stream", "shop")
    assert "backed up whole" in told
    server = f"{thing.name}-server"
    service.ok("datasource", "add", server, "postgresql://user@127.0.0.1:1/")
    job = service.ok("job", "edit", thing.name, "--datasource", server, "--stream", "shop", "--stream", "a*b")
    assert job["backup_options"]["streams"] == ["shop", "a*b"]
    assert "named twice" in service.refused(2, "job", "edit", thing.name, "--stream", "a", "--stream", "a")
    assert "backed up whole" in service.refused(2, "job", "edit", thing.name, "--datasource", thing.name)
    job = service.ok("job", "edit", thing.name, "--stream", "", "--datasource", thing.name)
    assert job["backup_options"]["streams"] == []


def test_a_run_that_fails_exits_by_its_outcome(service: Service) -> None:
    """The source is gone: the reason is told, and the exit code is that of a backup by hand."""
    thing = service.prepared()
    shutil.rmtree(thing.source)
    outcome = service.run("job", "run", thing.name, "--wait")
    assert outcome.code == 5
    assert "is NOT complete: failed" in outcome.out
    assert str(thing.source) in outcome.out


def test_waiting_can_be_stopped_without_stopping_the_work(service: Service) -> None:
    """Ctrl-C while a backup is watched ends the watching: 130, it says so, and the backup completes."""
    thing = service.prepared(size_bytes=20_000_000, bandwidth_limit_mbps=20, part_size_mb=1)  # eight seconds
    process = service.begin("job", "run", thing.name, "--wait")
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("backing up"), first
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "no longer waiting" in err
    (row,) = service.ok("execution", "list", "--job", thing.name)["data"]
    service.reaches(row["id"], "completed")


def test_a_backup_is_cancelled(service: Service) -> None:
    """A running backup that is cancelled ends as such, and leaves nothing in the storage."""
    thing = service.prepared(size_bytes=800_000_000)
    row_id = service.ok("job", "run", thing.name)["execution_id"]
    service.reaches(row_id, "running")
    service.told("execution", "cancel", row_id)
    service.reaches(row_id, "cancelled")
    assert list(thing.disk.rglob("*.zst")) == []


def test_logs_are_followed_to_the_end(service: Service) -> None:
    """`logs --follow` of a run that has just begun ends by itself, with the line that says how."""
    thing = service.prepared(size_bytes=50_000_000)
    row_id = service.ok("job", "run", thing.name)["execution_id"]
    lines = service.told("execution", "logs", row_id, "--follow").splitlines()
    assert "attempt 1 began" in lines[0]
    assert "completed" in lines[-1]
    assert len(service.ok("execution", "logs", row_id)["data"]) == len(lines)


def test_a_restore_wants_the_name_of_what_it_writes_to(service: Service) -> None:
    """Without a terminal and without --confirm nothing happens; a wrong name is refused by the service."""
    thing = service.prepared()
    row_id = service.backup(thing.name)["id"]
    assert f"--confirm {thing.name}" in service.refused(2, "execution", "restore", row_id)
    service.refused(2, "execution", "restore", row_id, "--confirm", "somebody else")


def test_a_restore_into_a_full_target_exits_as_one_by_hand(service: Service) -> None:
    """The target holds files: refused with 2, the row has the error's word, and no stack trace."""
    thing = service.prepared()
    row_id = service.backup(thing.name)["id"]
    outcome = service.run("execution", "restore", row_id, "--confirm", thing.name, "--wait", "--json")
    row = json.loads(outcome.out)
    assert (outcome.code, row["status"], row["error_code"]) == (2, "failed", "target_not_empty")
    assert row["error_stack"] is None


def test_a_restore_asks_on_a_terminal(service: Service) -> None:
    """A person types the datasource's name; a wrong one stops it, the right one starts it."""
    thing = service.prepared()
    row_id = service.backup(thing.name)["id"]
    for typed, code in (("wrong", 1), (thing.name, 0)):
        master, slave = pty.openpty()
        arguments = ["execution", "restore", row_id, "--drop-existing", "--wait"]
        process = service.begin(*arguments, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        seen = b""
        while b"to go on:" not in seen:
            seen += os.read(master, 4096)
        os.write(master, typed.encode() + b"\n")
        rest = b""
        try:
            while chunk := os.read(master, 4096):
                rest += chunk
        except OSError:  # the other end is closed
            pass
        assert process.wait(60) == code, rest
        assert (b"is complete" in rest) == (code == 0), rest
        os.close(master)


def test_a_pinned_backup_stays(service: Service) -> None:
    """Pinned, it cannot be removed; unpinned, it goes with everything that lies in the storage."""
    thing = service.prepared()
    first, second = service.backup(thing.name), service.backup(thing.name)
    service.told("execution", "pin", first["id"])
    assert "pinned" in service.refused(1, "execution", "remove", first["id"], "--yes")
    service.told("execution", "unpin", first["id"])
    assert "--yes" in service.refused(2, "execution", "remove", first["id"])
    service.told("execution", "remove", first["id"], "--yes")
    wait_for(lambda: not (thing.disk / first["backup_path"]).exists(), "the removal")
    assert (thing.disk / second["backup_path"]).exists()
    service.refused(5, "execution", "show", first["id"])


def test_a_job_can_be_removed_with_everything_that_it_made(service: Service) -> None:
    """The newest good backup goes only by force; the refusal says so, and then job and datasource can go."""
    thing = service.prepared()
    backup = service.backup(thing.name)
    assert "executions: 1" in service.refused(1, "job", "remove", thing.name, "--yes")
    assert "force" in service.refused(1, "execution", "remove", backup["id"], "--yes")
    service.told("execution", "remove", backup["id"], "--force", "--yes")
    assert not (thing.disk / backup["backup_path"]).exists()
    service.told("job", "remove", thing.name, "--yes")
    service.told("datasource", "remove", thing.name, "--yes")


def test_times_are_taken_as_the_service_prints_them(service: Service) -> None:
    """With an offset, in UTC without one, or a day; what is none is refused with an example."""
    thing = service.prepared()
    created_at = service.backup(thing.name)["created_at"]
    listed = lambda *options: service.ok("execution", "list", "--job", thing.name, *options)["pagination"]["total"]  # noqa: E731
    assert listed("--since", created_at) == 1
    assert listed("--until", created_at) == 0
    assert listed("--since", created_at[:10], "--until", "2999-01-01T00:00:00+02:00") == 1
    assert listed("--since", "2999-01-01T00:00:00") == 0
    assert service.ok("audit", "list", "--from", created_at[:10], "--limit", "1")["data"]
    assert "2026-11-23" in service.refused(2, "execution", "list", "--since", "yesterday")


def test_the_service_is_given_a_key_by_its_file(service: Service, tmp_path: Path) -> None:
    """The line of docs/encryption.md, as it stands there: one file is a list of one, and is shown as a mask."""
    key = tmp_path / "backup.key"
    public = service.ok("key", "generate", str(key))["recipient"]
    thing = service.prepared()
    service.ok("job", "edit", thing.name, "--recipient", public)
    backup = service.backup(thing.name)
    changed = service.ok("setting", "edit", "decryption", "--config", f"identities=@{key}")
    assert changed["value"]["identities"] == ["**********"]
    assert service.ok("execution", "verify", backup["id"], "--deep", "--wait")["ok"] is True
    service.ok("setting", "edit", "decryption", "--unset", "identities")


def test_things_are_found_by_name_by_id_and_by_its_beginning(service: Service) -> None:
    """A name, a whole id and a unique beginning of one are the same thing; a near miss gets a suggestion."""
    thing = service.prepared()
    row = service.ok("datasource", "show", thing.name)
    assert service.ok("datasource", "show", row["id"]) == row
    assert service.ok("datasource", "show", row["id"][:-4])["id"] == row["id"]
    execution = service.backup(thing.name)
    assert service.ok("execution", "show", execution["id"][:-3])["id"] == execution["id"]
    assert f"did you mean {thing.name}" in service.refused(5, "datasource", "show", thing.name + "x")
    assert "is the beginning of" in service.refused(2, "execution", "list", "--job", row["id"][:4])
    service.refused(5, "execution", "show", str(uuid.uuid4()))
    service.refused(5, "execution", "show", "nonsense")


def test_what_is_in_use_is_not_removed(service: Service) -> None:
    """A datasource with a job cannot go; the service says by what it is used."""
    thing = service.prepared()
    assert thing.name in service.refused(1, "datasource", "remove", thing.name, "--yes")
    service.told("job", "remove", thing.name, "--yes")
    service.told("datasource", "remove", thing.name, "--yes")
    service.told("storage", "remove", thing.name, "--yes")
    service.refused(5, "job", "show", thing.name)


def test_a_password_never_comes_out_again(service: Service, tmp_path: Path) -> None:
    """From the address, a file, standard input or the environment: stored, masked everywhere, in no log."""
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET + "\n")
    secret_file.chmod(0o600)
    base = f"p{uuid.uuid4().hex[:8]}"
    address = "postgresql://app@127.0.0.1:1/shop"
    outcomes = [
        service.run("datasource", "add", f"{base}-1", f"postgresql://app:{SECRET}@127.0.0.1:1/shop", "--json"),
        service.run("datasource", "add", f"{base}-2", address, "--password-file", str(secret_file), "--json"),
        service.run("datasource", "add", f"{base}-3", address, "--password-file", "-", "--json", data=SECRET + "\n"),
        service.run("datasource", "add", f"{base}-4", address, "--json", env={"DATAGUARDIAN_PASSWORD": SECRET}),
        service.run("datasource", "add", f"{base}-5", address, "--config", f"password=@{secret_file}", "--json"),
    ]
    for outcome in outcomes:
        assert outcome.code == 0, outcome
        assert outcome.json["connection_config"]["password"] == "**********"
        name = outcome.json["name"]
        shown = service.run("datasource", "test", name)
        assert shown.code == 5
        assert SECRET not in outcome.out + outcome.err + shown.out + shown.err
        assert SECRET not in service.told("datasource", "show", name) + service.told("datasource", "list")
    assert SECRET not in service.log


def test_an_edit_changes_what_is_given_and_keeps_the_rest(service: Service) -> None:
    """A new host leaves the password alone, --unset removes a field, and an edit of nothing is refused."""
    name = f"e{uuid.uuid4().hex[:8]}"
    service.ok("datasource", "add", name, f"postgresql://app:{SECRET}@127.0.0.1:5/shop", "--tag", "a")
    changed = service.ok("datasource", "edit", name, "--config", "host=localhost", "--tag", "b", "--disable")
    assert changed["connection_config"] == {
        "host": "localhost",
        "port": 5,
        "database": "shop",
        "username": "app",
        "password": "**********",
    }
    assert (changed["tags"], changed["enabled"]) == (["b"], False)
    assert "port" not in service.ok("datasource", "edit", name, "--unset", "port")["connection_config"]
    assert "nothing to change" in service.refused(2, "datasource", "edit", name)
    assert "of type postgres" in service.refused(2, "datasource", "edit", name, "files:///etc")


def test_what_is_production_is_said_when_it_is_added_or_later(service: Service) -> None:
    """Nobody said otherwise: production. `--no-production` says otherwise, and an edit of something else leaves it."""
    thing, name = service.prepared(), f"t{uuid.uuid4().hex[:8]}"
    assert service.ok("datasource", "show", thing.name)["production"] is True
    assert service.ok("datasource", "add", name, "files:///etc", "--no-production")["production"] is False
    assert service.ok("datasource", "edit", name, "--tag", "x")["production"] is False
    (line,) = [line for line in service.told("datasource", "list").splitlines() if line.startswith(name)]
    assert line.split()[-3:-1] == ["no", "x"]
    assert service.ok("datasource", "edit", name, "--production")["production"] is True
    assert "only administrators restore into it" in service.told("datasource", "show", name)


def test_a_job_is_edited(service: Service) -> None:
    """Schedule, retention and options change one by one; an empty cron leaves it to be started by hand."""
    thing = service.prepared()
    options = ["--cron", "0 3 * * *", "--timezone", "Europe/Lisbon", "--keep-daily", "3", "--part-size", "8MiB"]
    changed = service.ok("job", "edit", thing.name, *options, "--compression", "gzip", "--exclude", "*.tmp")
    assert (changed["schedule_cron"], changed["schedule_timezone"]) == ("0 3 * * *", "Europe/Lisbon")
    assert (changed["retention_policy"]["keep_daily"], changed["retention_policy"]["keep_weekly"]) == (3, 4)
    assert changed["backup_options"]["part_size_mb"] == 8
    assert changed["backup_options"]["exclude"] == ["*.tmp"]
    assert "Europe/Lisbon" in service.told("job", "show", thing.name)
    assert service.ok("job", "edit", thing.name, "--cron", "")["next_execution_at"] is None
    service.refused(2, "job", "edit", thing.name, "--cron", "every day")
    service.refused(2, "job", "edit", thing.name, "--part-size", "100KiB")
    assert service.ok("job", "edit", thing.name, "--storage", "default")["storage_location_id"] is None


def test_what_retention_would_do(service: Service) -> None:
    """The preview names each backup and why it stays."""
    thing = service.prepared()
    assert "no backups yet" in service.told("job", "retention", thing.name)
    row = service.backup(thing.name)
    told = service.told("job", "retention", thing.name)
    assert row["id"] in told.replace("\n", "")
    assert "kept as" in told


def test_the_overview(own_service: Service) -> None:
    """`status` shows the service, its jobs with their last runs, sources, storages, queues and news."""
    own_service.start()
    thing = own_service.prepared()
    own_service.backup(thing.name)
    told = own_service.told("status")
    assert own_service.url in told
    assert "(token), admin: administer" in told
    (job_line,) = [line for line in told.splitlines() if line.startswith(thing.name) and "by hand" in line]
    assert "completed" in job_line
    assert sorted(own_service.ok("status")) == ["info", "key_proofs", "overview", "queues", "recovery_kit", "session"]
    for heading in ("backup jobs", "datasources", "storage locations", "queues", "recovery", "notifications"):
        assert f"\n{heading}\n" in told


def test_queues_are_paused_and_watched(own_service: Service) -> None:
    """A paused queue takes jobs and hands none out, until it is resumed."""
    own_service.start()
    thing = own_service.prepared()
    own_service.told("queues", "pause", "backup")
    row_id = own_service.ok("job", "run", thing.name)["execution_id"]
    assert "paused" in own_service.told("queues")
    assert own_service.ok("execution", "show", row_id)["status"] == "queued"
    own_service.told("queues", "resume", "backup-queue")
    own_service.reaches(row_id, "completed")
    service_queues = {queue["name"]: queue for queue in own_service.ok("queues")["queues"]}
    assert service_queues["backup-queue"]["paused"] is False
    assert "nothing has failed" in own_service.told("queues", "retry")
    own_service.refused(2, "queues", "pause", "coffee")


def test_notifications_are_read(own_service: Service) -> None:
    """The news of a completed backup is listed, shown, and marked as read."""
    own_service.start()
    thing = own_service.prepared()
    own_service.backup(thing.name)
    news = wait_for(
        lambda: [
            row for row in own_service.ok("notification", "list", "--unread")["data"] if thing.name in row["title"]
        ],
        "the notification",
    )
    assert thing.name in own_service.told("notification", "show", news[0]["id"])
    own_service.told("notification", "read", news[0]["id"])
    assert own_service.ok("notification", "show", news[0]["id"])["read_at"]
    own_service.told("notification", "read", "--all")
    assert "no unread notifications" in own_service.told("notification", "list", "--unread")
    own_service.refused(5, "notification", "test", "nowhere")
    own_service.refused(2, "notification", "read")


def test_names_cannot_steer_the_terminal(service: Service, tmp_path: Path) -> None:
    """A folder whose name holds escape codes is shown with them made visible."""
    folder = tmp_path / ("so long that it fills a line " * 4) / "evil\x1b[31mred"
    folder.mkdir(parents=True)
    name = f"v{uuid.uuid4().hex[:8]}"
    body = tmp_path / "config.json"
    body.write_text(json.dumps({"source_path": str(folder)}))
    service.ok("datasource", "add", name, "--type", "files", "--config-file", str(body))
    for told in (service.told("datasource", "list"), service.told("datasource", "show", name), service.told("status")):
        assert "\x1b" not in told
        assert "\\x1b[31mred" in told


def test_verbs_without_a_verb_show_their_help(service: Service) -> None:
    """`dataguardian job` alone is wrong usage, and says what there is."""
    outcome = service.run("job")
    assert outcome.code == 2
    assert "retention" in outcome.out
    assert "dataguardian job run --help" in service.refused(2, "job", "run")
