"""Every adapter in the service as it runs: its own process, its runners, real servers, and nothing but the API.

Each type of datasource is stored in another type of storage location. `test_all_are_here` fails for a new adapter.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dataguardian.cli.client import ServiceError
from dataguardian.cli.configs import address_config
from dataguardian.cli.things import DATASOURCE, EXECUTION, JOB, RESTORE, STORAGE, VERIFICATION
from dataguardian.engines.registry import ENGINES
from dataguardian.service.secrets import MASK, revealed
from dataguardian.storage.registry import STORAGES
from tests.cli.program import wait_for
from tests.cli.service import Service, cleared, short_folder
from tests.mariadb import MariadbServer
from tests.mongo import MongoServer, require_mongo
from tests.servers import PASSWORD, PostgresServer, free_port
from tests.ssh.sshd import remove, ssh_server
from tests.storage.fixture_backblaze import b2
from tests.storage.fixture_rclone import SftpRemoteHarness
from tests.storage.fixture_ssh import SshHarness
from tests.storage.peers import end_shared, shared
from tests.storage.processes import listening, program
from tests.storage.s3_servers import moto_s3

Config = dict[str, Any]
Asking = Callable[..., Any]

BRIDGE_PASSWORD = "bridge-Hunter2"
PAIRS = {
    "postgres": "s3",
    "mysql": "minio",
    "mariadb": "backblaze",
    "mongodb": "ssh",
    "sqlserver": "local",
    "sqlite": "rclone",
    "files": "s3",
}


class Town:
    """The service, and the servers around it, each started when it is first asked for."""

    def __init__(self, service: Service, ask: Asking) -> None:
        self.service, self._ask = service, ask
        self.client = service.client()
        self._folders: list[Path] = []

    def close(self) -> None:
        self.client._http.close()
        for folder in self._folders:
            remove(folder)

    def source(self, kind: str) -> tuple[Config, Config]:
        """Returns what is backed up, and where it is restored to."""
        here, there = getattr(self, f"_{kind}")()
        return self._engine(kind, here), self._engine(kind, there)

    def place(self, kind: str) -> Config:
        return dict(getattr(self, f"_{kind}")())

    @staticmethod
    def _engine(kind: str, address: str) -> Config:
        found, config = address_config(ENGINES, address)
        assert found == kind
        return config

    def _postgres(self) -> tuple[str, str]:
        server: PostgresServer = self._ask("postgres17")
        fill = "CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 100) g"
        return server.url(server.database(fill)), server.url(server.database("CREATE TABLE old (x int)"))

    def _mysql(self, scheme: str = "mysql") -> tuple[str, str]:
        server: MariadbServer = self._ask("mariadb")
        fill = "CREATE TABLE t (PRIMARY KEY (id)) SELECT seq AS id FROM seq_1_to_100"
        here, there = server.database(fill), server.database("CREATE TABLE old (x int)")
        return server.url(here, scheme=scheme), server.url(there, scheme=scheme)

    def _mariadb(self) -> tuple[str, str]:
        return self._mysql("mariadb")

    def _mongodb(self) -> tuple[str, str]:
        server: MongoServer = self._ask("mongo")
        here, there = server.name(), server.name()
        server.client[here]["t"].insert_many([{"_id": number} for number in range(100)])
        server.client[there]["old"].insert_one({})
        return server.url(here), server.url(there)

    def _sqlserver(self) -> tuple[str, str]:
        address = f"sqlserver://reader:{BRIDGE_PASSWORD}@127.0.0.1:{self._ask('bridge')}/pysqlbridge?method=tds"
        return address, address

    def _sqlite(self) -> tuple[str, str]:
        paths = [self.service.folder / name for name in ("here.db", "there.db")]
        for path in paths:
            with closing(sqlite3.connect(path)) as database, database:
                database.execute(f"CREATE TABLE {path.stem} (x)")
        return f"sqlite://{paths[0]}", f"sqlite://{paths[1]}"

    def _files(self) -> tuple[str, str]:
        return f"files://{self.service.tree('here')}", f"files://{self.service.tree('there')}"

    def _s3(self) -> Config:
        """Without keys: the service has them in its environment, and so must the runner."""
        server = shared(moto_s3)
        return {"bucket": server.bucket(), "endpoint": f"http://127.0.0.1:{server.port}", "region": "us-east-1"}

    def _minio(self) -> Config:
        server = shared(moto_s3)
        keys = {"access_key": server.owner.access_key, "secret_key": server.owner.secret_key}
        return {"endpoint": f"127.0.0.1:{server.port}", "bucket": server.bucket(), "use_ssl": False, **keys}

    def _backblaze(self) -> Config:
        server = shared(b2)
        return revealed(server.config(server.bucket()))

    def _ssh(self) -> Config:
        """Without a host key: the service pins it in its home, where the runner finds it. The key comes as a text."""
        server = shared(ssh_server)
        config = revealed(SshHarness(server, self._shared_folder()).config)
        text = Path(config.pop("private_key_file")).read_text(encoding="ascii")
        del config["host_key"]
        return config | {"private_key": text}

    def _rclone(self) -> Config:
        program("rclone")
        return revealed(SftpRemoteHarness(shared(ssh_server), self._shared_folder()).config)

    def _local(self) -> Config:
        folder = self.service.folder / "disk"
        folder.mkdir(exist_ok=True)
        return {"path": str(folder)}

    def _shared_folder(self) -> Path:
        self._folders.append(shared(ssh_server).shared_folder())
        return self._folders[-1]

    def added(self, noun: Any, name: str, kind: str, config: Config) -> str:
        """Adds a datasource or storage location, sends its masked answer back as an edit, and tests it."""
        field = "config" if noun is STORAGE else "connection_config"
        given = {key: value for key, value in config.items() if key != "type"}
        row = self.client.post(noun.path, {"name": name, "type": kind, field: given})
        again = self.client.put(noun.of(row["id"]), {field: row[field]})
        assert again[field] == row[field]
        probe = self.client.post(f"{noun.of(row['id'])}/test")
        assert probe["status"] == "ok", probe
        return str(row["id"])

    def ended(self, path: str) -> Config:
        row: Config = {}

        def is_over() -> bool:
            row.update(self.client.get(path))
            return row["status"] not in {"queued", "running"}

        wait_for(is_over, path, seconds=90)
        return row

    def backed_up(self, name: str, source: str, storage: str, **options: Any) -> Config:
        body = {"name": name, "datasource_id": source, "storage_location_id": storage, "backup_options": options}
        job = self.client.post(JOB.path, body)
        started = self.client.post(f"{JOB.of(job['id'])}/run")
        row = self.ended(EXECUTION.of(started["execution_id"]))
        assert row["status"] == "completed", row["error_message"]
        return row

    def verified(self, execution_id: str) -> Config:
        asked = self.client.post(f"{EXECUTION.of(execution_id)}/verify", {"deep": True})
        return self.ended(VERIFICATION.of(asked["verification_id"]))

    def restored(self, execution_id: str, target: str, name: str, *, drop_existing: bool) -> Config:
        body = {"target_datasource_id": target, "confirm": name, "drop_existing": drop_existing}
        asked = self.client.post(f"{EXECUTION.of(execution_id)}/restore", body)
        return self.ended(RESTORE.of(asked["restore_id"]))


@pytest.fixture(scope="module")
def mongo() -> Iterator[MongoServer]:
    require_mongo()
    server = MongoServer(auth=True)
    yield server
    server.close()


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server of SQL Server's protocol that reads only; yields its port."""
    folder, port = tmp_path_factory.mktemp("bridge"), free_port()
    (folder / "people.csv").write_text("id,name\n1,Jo\n", encoding="utf-8")
    tables = [{"name": "people", "csv": "people.csv"}]
    login = {"user": "reader", "password": "${env:BRIDGE_PASSWORD}"}
    config = folder / "config.json"
    config.write_text(json.dumps({"tables": tables, "logins": [login]}), encoding="utf-8")
    argv = [sys.executable, "-m", "pysqlbridge.server", "--config", str(config), "--port", str(port)]
    with listening(argv, port, env={"BRIDGE_PASSWORD": BRIDGE_PASSWORD}):
        yield port


@pytest.fixture(scope="module")
def town(request: pytest.FixtureRequest) -> Iterator[Town]:
    keys = shared(moto_s3).owner
    env = {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
    service = Service(short_folder(), env={**env, "AWS_EC2_METADATA_DISABLED": "true"})
    service.start()
    here = Town(service, request.getfixturevalue)
    yield here
    here.close()
    assert service.stop() == 0
    assert "Traceback" not in service.log
    for secret in (PASSWORD, "ss'w", keys.secret_key, BRIDGE_PASSWORD, "masterKey-0", "PRIVATE KEY"):
        assert secret not in service.log
    cleared(service.folder)
    end_shared()


def test_all_are_here() -> None:
    """A new adapter belongs into this story."""
    assert set(PAIRS) == set(ENGINES.adapters)
    assert set(PAIRS.values()) == set(STORAGES.adapters)


@pytest.mark.parametrize(("kind", "place"), PAIRS.items(), ids=str)
def test_the_whole_way(town: Town, kind: str, place: str) -> None:
    """Defined, edited with its masks, tested, backed up, and restored over what another datasource holds."""
    here, there = town.source(kind)
    source = town.added(DATASOURCE, kind, kind, here)
    target = town.added(DATASOURCE, f"{kind} copy", kind, there)
    storage = town.added(STORAGE, f"{place} for {kind}", place, town.place(place))
    backup = town.backed_up(kind, source, storage)
    if kind == "postgres":
        refused = town.restored(backup["id"], target, f"{kind} copy", drop_existing=False)
        assert refused["status"] == "failed"
        assert "drop_existing" in refused["error_message"]
    if kind == "sqlserver":  # the peer cannot be written to
        assert town.verified(backup["id"])["ok"] is True
        return
    restored = town.restored(backup["id"], target, f"{kind} copy", drop_existing=True)
    assert restored["status"] == "completed", restored["error_message"]
    shown = str([town.client.get(DATASOURCE.of(source)), town.client.get(STORAGE.of(storage)), backup, restored])
    secrets = [value for value in (here.get("password"), here.get("secret_key")) if value]
    assert not any(secret in shown for secret in secrets)
    assert not secrets or MASK in shown


def test_one_backup_in_two_clouds(town: Town) -> None:
    """A job replicates to S3 and SFTP; both copies are read when it is verified."""
    source = town.added(DATASOURCE, "two", "files", {"source_path": str(town.service.tree("two"))})
    first = town.added(STORAGE, "two s3", "s3", town.place("s3"))
    second = town.added(STORAGE, "two ssh", "ssh", town.place("ssh"))
    backup = town.backed_up("two", source, first, storage_targets=[second])
    assert [target["status"] for target in backup["targets"]] == ["stored", "stored"]
    assert town.verified(backup["id"])["ok"] is True


@pytest.mark.parametrize(
    ("noun", "kind", "config", "field"),
    [
        (STORAGE, "s3", {"bucket": "b"}, "config.bucket"),
        (STORAGE, "ssh", {"host": "h", "remote_path": "/x", "host_key": "nonsense"}, "config.host_key"),
        (DATASOURCE, "postgres", {"ssh_tunnel": {"host": "h", "host_key": "x"}}, "ssh_tunnel.host_key"),
        (STORAGE, "backblaze", {}, "bucket_name"),
        (STORAGE, "minio", {"endpoint": "h", "bucket": "bucket", "access_key": "k"}, "secret_key"),
        (DATASOURCE, "mongodb", {"hosts": "h"}, "connection_config.hosts"),
        (DATASOURCE, "sqlserver", {"host": "h", "port": 0}, "connection_config.port"),
    ],
)
def test_a_wrong_configuration_names_its_field(town: Town, noun: Any, kind: str, config: Config, field: str) -> None:
    """What cannot work is refused when it is stored, not at three o'clock at night, and the field is named."""
    key = "config" if noun is STORAGE else "connection_config"
    with pytest.raises(ServiceError) as caught:
        town.client.post(noun.path, {"name": "wrong", "type": kind, key: config})
    assert caught.value.status == 422
    assert field in str(caught.value)


def test_nothing_is_left_running(town: Town) -> None:
    """Every child of the service is its queue server, or rclone, which waits a minute for more."""
    assert town.service.process is not None
    children = Path(f"/proc/{town.service.process.pid}/task").glob("*/children")
    pids = [pid for file in children for pid in file.read_text().split()]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in pids]
    assert all("valkey-server" in line or "rclone" in line for line in lines), lines
    assert os.environ.get("AWS_ACCESS_KEY_ID") is None
