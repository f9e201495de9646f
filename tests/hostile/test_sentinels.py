"""A sentinel in every secret field of everything that can be configured, and a look at everything that is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis as redis_client

from dataguardian.domain.secretfields import check_names, leaves
from dataguardian.engines.registry import ENGINES
from dataguardian.notifiers.registry import NOTIFIERS
from dataguardian.service.options import BackupOptions
from dataguardian.service.systemsettings import DEFINITIONS
from dataguardian.storage.registry import STORAGES
from tests.faults.conftest import parts, real, redis, services  # noqa: F401 -- fixtures
from tests.faults.service import Parts, Service, wait_for
from tests.hostile.sentinels import Sentinels, Watch, documents_of, every_answer, filled, found_in_files

NEEDED_IN_ENVIRONMENT = {
    ("pg_dump", "PGPASSWORD"): "libpq takes a password from nowhere else but a file or a terminal",
    ("pg_dumpall", "PGPASSWORD"): "as pg_dump",
    ("psql", "PGPASSWORD"): "as pg_dump",
    ("pg_restore", "PGPASSWORD"): "as pg_dump, where it restores; it reads archives without",
    ("setpriv", "PGPASSWORD"): "becomes pg_dump",
    ("stdbuf", "PGPASSWORD"): "becomes pg_dump",
    ("env", "PGPASSWORD"): "becomes pg_dump",
    ("mysqldump", "MYSQL_PWD"): "else it is a file, or an argument that everybody sees",
    ("mariadb-dump", "MYSQL_PWD"): "as mysqldump",
    ("setpriv", "MYSQL_PWD"): "becomes mariadb-dump",
    ("stdbuf", "MYSQL_PWD"): "becomes mariadb-dump",
    ("env", "MYSQL_PWD"): "becomes mariadb-dump",
    ("rclone", "RCLONE_CONFIG_PASS"): "rclone opens its configuration with it",
    ("sh", "RCLONE_CONFIG_PASS"): "becomes rclone",
    ("setpriv", "RCLONE_CONFIG_PASS"): "becomes rclone",
}
"""Environments belong to the same user alone, as /proc/<id>/environ. Everything else gets its secrets by a pipe."""


class Receiver:
    """A webhook's other end, which keeps what it was sent."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.got.append(self.rfile.read(int(self.headers["Content-Length"] or 0)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    here = Receiver()
    yield here
    here.server.shutdown()
    here.server.server_close()


@pytest.mark.parametrize("registry", [ENGINES, STORAGES, NOTIFIERS], ids=lambda registry: registry.noun)
def test_no_adapter_has_a_field_that_is_called_like_a_secret_and_is_none(registry: Any) -> None:
    """The scan refuses one; so do settings and the options of jobs."""
    for adapter in registry.adapters.values():
        check_names(adapter.config)
    check_names(BackupOptions)
    for definition in DEFINITIONS.values():
        check_names(definition.model())


@pytest.mark.parametrize("registry", [ENGINES, STORAGES, NOTIFIERS], ids=lambda registry: registry.noun)
def test_every_secret_field_of_every_adapter_gets_a_sentinel(registry: Any) -> None:
    """By the types alone, so that a new adapter, or a new field of an old one, cannot be forgotten."""
    for kind, adapter in registry.adapters.items():
        sentinels = Sentinels()
        documents = documents_of(adapter, sentinels)
        fields = {".".join(leaf.path) for leaf in leaves(adapter.config) if leaf.secret}
        assert set(sentinels.made.values()) == {f"{kind} {name}" for name in fields}
        text = json.dumps(documents)
        assert all(json.dumps(secret)[1:-1] in text for secret in sentinels.made)


def test_secrets_come_to_light_nowhere(
    parts: Parts,  # noqa: F811 -- a fixture
    services: Callable[..., Service],  # noqa: F811 -- a fixture
    receiver: Receiver,
) -> None:
    """Catalogue and its log, queue, files of the home, stored backups, logs, answers, argv: none of them holds one."""
    sentinels, service = Sentinels(), services(parts)
    service.env["DATAGUARDIAN_SECRET_KEY"] = "U2VudGluZWwtb2YtdGhlLWtleS1pdHNlbGYtMzJieXQ="
    sentinels.made[service.env["DATAGUARDIAN_SECRET_KEY"]] = "the key itself"
    service.start()
    service.settled()
    with Watch(service, sentinels) as watch:
        _configured(service, sentinels, receiver)
        _in_use(service)
    assert receiver.got, "a notification arrived"
    service.settled()
    answers = {path: found for path, data in every_answer(service) if (found := sentinels.found_in(data))}
    assert answers == {}
    queued = _queued(parts, service)
    assert service.stop() == 0
    assert len(sentinels.made) > 30
    assert sentinels.found_in(service.log.encode()) == set()
    assert sentinels.found_in(queued) == set()
    assert found_in_files(parts.folder, sentinels) == {}
    assert _in_postgres(parts, sentinels) == set()
    assert sentinels.found_in(b"".join(receiver.got)) == set()
    assert watch.in_argv == set()
    unneeded = {entry for entry in watch.in_environment if entry[:2] not in NEEDED_IN_ENVIRONMENT}
    mine = {entry for entry in unneeded if entry[1] == "DATAGUARDIAN_SECRET_KEY" and entry[0].startswith("python")}
    assert unneeded - mine == set()
    assert len(mine) <= 1, "the service was given the key by whoever started it; nobody else has it"


def _stored(service: Service, method: str, path: str, body: Any) -> Any:
    """Sends until it is taken: on a busy machine the catalogue has others before us."""

    def sent() -> Any:
        answer = service.call(method, path, json=body)
        assert answer.is_success or answer.status_code in (409, 503), answer.text
        return answer.json() if answer.status_code != 503 else None

    return wait_for(sent, f"{method} {path} is taken", 90)


def _configured(service: Service, sentinels: Sentinels, receiver: Receiver) -> None:
    """Stores a configuration of every kind, with a sentinel in every secret field."""
    for kind, adapter in ENGINES.adapters.items():
        for number, document in enumerate(documents_of(adapter, sentinels)):
            config = {key: value for key, value in document.items() if key != "type"}
            body = {"name": f"{kind} {number}", "type": kind, "connection_config": config}
            source = _stored(service, "POST", "/api/datasources", body)
            _stored(service, "PUT", f"/api/datasources/{source['id']}", {"tags": ["changed"]})
            options = filled(BackupOptions, {}, sentinels, f"job {kind}")[0]
            job = {"name": f"{kind} {number}", "datasource_id": source["id"], "backup_options": options}
            _stored(service, "POST", "/api/backup-jobs", job)
    for kind, adapter in STORAGES.adapters.items():
        for number, document in enumerate(documents_of(adapter, sentinels)):
            config = {key: value for key, value in document.items() if key != "type"}
            body = {"name": f"{kind} {number}", "type": kind, "config": config}
            _stored(service, "POST", "/api/storage-locations", body)
    channels = {
        f"{kind} {number}": document
        for kind, adapter in NOTIFIERS.adapters.items()
        for number, document in enumerate(documents_of(adapter, sentinels))
    }
    sentinels.note("SentinelSentinel0123456789abcdef", "a webhook that answers")
    channels["answers"] = {"type": "webhook", "url": f"{receiver.url}/Sentinel0123456789abcdef0123"}
    sentinels.note("Sentinel0123456789abcdef0123", "the address of a webhook that answers")
    _stored(service, "PUT", "/api/system/settings/notifications", {"value": {"channels": channels}})
    for key, definition in DEFINITIONS.items():
        if key != "notifications" and any(leaf.secret for leaf in leaves(definition.model())):
            for document in filled(definition.model(), {}, sentinels, key):
                _stored(service, "PUT", f"/api/system/settings/{key}", {"value": document})


def _in_use(service: Service) -> None:
    """Checks and tests everything, runs every job, sends to every channel; nearly all of it fails."""
    for name in ("datasources", "storage-locations"):
        for row in service.get(f"/api/{name}", limit=100)["data"]:
            service.call("POST", f"/api/{name}/{row['id']}/test")
    for job in service.get("/api/backup-jobs", limit=100)["data"]:
        _stored(service, "POST", f"/api/backup-jobs/{job['id']}/run", None)
    runs = [f"/api/executions/{row['id']}" for row in service.executions()]
    for channel in service.get("/api/system/settings/notifications")["value"]["channels"]:
        service.call("POST", f"/api/notifications/channels/{channel}/test")
    for run in runs:
        wait_for(lambda run=run: _has_ended_once(service, run), f"{run} was tried", 180)
        service.call("POST", f"{run}/cancel")
    _changed(service)


def _changed(service: Service) -> None:
    """Changes something else in everything, so that its secrets are stored once more."""
    for row in service.get("/api/datasources", limit=100)["data"]:
        if "host" in row["connection_config"]:
            _stored(service, "PUT", f"/api/datasources/{row['id']}", {"connection_config": {"host": "127.0.0.2"}})
    for row in service.get("/api/storage-locations", limit=100)["data"]:
        _stored(service, "PUT", f"/api/storage-locations/{row['id']}", {"config": {"bandwidth_limit_mbps": 100}})
    for row in service.get("/api/backup-jobs", limit=100)["data"]:
        _stored(service, "PUT", f"/api/backup-jobs/{row['id']}", {"backup_options": {"part_size_mb": 2}})


def _has_ended_once(service: Service, run: str) -> bool:
    lines = service.get(f"{run}/logs", limit=100)["data"]
    row = service.get(run)
    return row["status"] not in ("queued", "running") or any(line["level"] == "error" for line in lines)


def _queued(parts: Parts, service: Service) -> bytes:  # noqa: F811 -- the fixture's name
    """Returns every key and value of the queue server."""
    if parts.redis is not None:
        client = redis_client.Redis.from_url(parts.redis.url)
    else:
        [socket] = [path for path in Path(service.home / "queue").rglob("*") if path.is_socket()] or [None]
        if socket is None:
            return b""  # its append-only file is searched with the home
        client = redis_client.Redis(unix_socket_path=str(socket))
    with client:
        return b"\n".join(key + client.dump(key) for key in client.scan_iter())


def _in_postgres(parts: Parts, sentinels: Sentinels) -> set[str]:  # noqa: F811 -- the fixture's name
    if parts.postgres is None or parts.database is None:
        return set()
    dump = parts.postgres.run("pg_dump", "--inserts", parts.database)
    assert b"dgs1:" in dump
    return sentinels.found_in(dump)


def test_a_sentinel_that_is_not_sealed_would_be_found(tmp_path: Path) -> None:
    """The search finds what is there: in a file, in a compressed one, and in JSON."""
    sentinels = Sentinels()
    [document] = documents_of(NOTIFIERS.adapters["webhook"], sentinels)
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert set(sentinels.made.values()) == set().union(*found_in_files(tmp_path, sentinels).values())
    assert {leaf.path for leaf in leaves(NOTIFIERS.adapters["webhook"].config) if leaf.secret} == {
        tuple("*" if step == "*" else step for step in where.split(" ", 1)[1].split("."))
        for where in sentinels.made.values()
    }
