"""Real backups, restores, verifications and probes of real servers, whose real passwords no child shows to anybody.

`test_sentinels.py` puts a sentinel into every secret field and mostly meets servers that are away; here the fields hold
what real servers ask for, and the client programs do their work while their command lines and environments are read.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dataguardian.cli.things import DATASOURCE, STORAGE
from dataguardian.domain.secretfields import leaves
from dataguardian.engines.registry import ENGINES
from dataguardian.service.secrets import revealed
from dataguardian.storage.registry import STORAGES
from tests.cli.service import Service, cleared, short_folder
from tests.hostile.sentinels import Sentinels, Watch, found_in_files
from tests.hostile.test_sentinels import NEEDED_IN_ENVIRONMENT
from tests.mariadb import MariadbServer
from tests.servers import PostgresServer
from tests.service.test_every_adapter import PAIRS, Town, bridge, mongo  # noqa: F401 -- fixtures
from tests.ssh.sshd import PASSPHRASE, ssh_server
from tests.storage.fixture_backblaze import b2
from tests.storage.fixture_ssh import SshHarness
from tests.storage.peers import end_shared, shared
from tests.storage.s3_servers import moto_s3

Config = dict[str, Any]

ROWS = 300_000
"""So many that a dump takes long enough to be looked at."""
NETWORKED = {"postgres", "mysql", "mariadb", "mongodb", "sqlserver"}
PROGRAMS = {
    "postgres": {"pg_dump", "pg_restore"},
    "mysql": {"mariadb-dump"},
    "mariadb": {"mariadb-dump"},
    "mongodb": set(),
    "sqlserver": set(),
    "sqlite": {"rclone"},
    "files": {"tar"},
}
"""Which client programs must have been seen at work; `python` is seen with all of them."""
NOT_REAL = {
    "ssh_tunnel.password": "sshd asks the system's accounts; it is handed over as `private_key` is",
    "minio sse_customer_key": "is refused without TLS",
    "s3 sse_customer_key": "as minio's",
    "s3 session_token": "the peer gives out none",
    "ssh password": "as that of a tunnel",
}
"""Secrets that no server of these tests asks for; test_sentinels.py has them all the same."""


@dataclass
class Family:
    """A service and all that it started, as the kernel knows them."""

    service: Service

    def processes(self) -> Iterator[tuple[int, str]]:
        assert self.service.process is not None
        waiting = [self.service.process.pid]
        while waiting:
            pid = waiting.pop()
            try:
                for task in (Path("/proc") / str(pid) / "task").iterdir():
                    waiting += map(int, (task / "children").read_text().split())
                command = (Path("/proc") / str(pid) / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            yield pid, command.replace(b"\0", b" ").decode(errors="replace")


def forms(secret: str) -> set[str]:
    """Returns a secret as it is, and as addresses, JSON, option files, SQL and base64 write it."""
    plain = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
    plain |= {json.dumps(secret, ensure_ascii=False)[1:-1], base64.b64encode(secret.encode()).decode()}
    return plain | {secret.replace("\\", "\\\\"), secret.replace("'", "\\'"), secret.replace("'", "''")}


class Street(Town):
    """The same servers; what they ask for stands in the configurations, every secret of them, and is noted."""

    def __init__(self, service: Service, ask: Any) -> None:
        super().__init__(service, ask)
        self.sentinels = Sentinels()
        self.given: set[str] = set()

    def _files(self) -> tuple[str, str]:
        """As much as it takes for tar to be seen at work."""
        tree = self.service.tree
        return f"files://{tree('here', size_bytes=50_000_000)}", f"files://{tree('there')}"

    def noted(self, kind: str, adapter: Any, config: Config) -> Config:
        """Notes what is secret in a configuration, by its type."""
        for leaf in leaves(adapter.config):
            value: Any = config
            for step in leaf.path:
                value = value.get(step) if isinstance(value, dict) else None
            if leaf.secret and value:
                where = f"{kind} {'.'.join(leaf.path)}"
                self.given.add(where)
                if "\n" in value:
                    self.sentinels.note(value, where)
                else:
                    self.sentinels.made |= dict.fromkeys(forms(value), where)
        return config

    def source(self, kind: str) -> tuple[Config, Config]:
        here, there = super().source(kind)
        if kind in NETWORKED:
            here, there = (config | {"ssh_tunnel": self._tunnel()} for config in (here, there))
        adapter = ENGINES.adapters[kind]
        return self.noted(kind, adapter, here), self.noted(kind, adapter, there)

    def place(self, kind: str) -> Config:
        return self.noted(kind, STORAGES.adapters[kind], super().place(kind))

    def _tunnel(self) -> Config:
        server = shared(ssh_server)
        key = server.sealed_key.read_text(encoding="ascii")
        return {
            "host": "127.0.0.1",
            "port": server.port,
            "username": server.user,
            "private_key": key,
            "passphrase": PASSPHRASE,
        }

    def _postgres(self) -> tuple[str, str]:
        server: PostgresServer = self._ask("postgres17")
        fill = f"CREATE TABLE t AS SELECT g AS id, md5(g::text) AS word FROM generate_series(1, {ROWS}) g"
        return server.url(server.database(fill)), server.url(server.database("CREATE TABLE old (x int)"))

    def _mysql(self, scheme: str = "mysql") -> tuple[str, str]:
        server: MariadbServer = self._ask("mariadb")
        fill = f"CREATE TABLE t (PRIMARY KEY (id)) SELECT seq AS id, md5(seq) AS word FROM seq_1_to_{ROWS}"
        here, there = server.database(fill), server.database("CREATE TABLE old (x int)")
        return server.url(here, scheme=scheme), server.url(there, scheme=scheme)

    def _s3(self) -> Config:
        server = shared(moto_s3)
        return revealed(server.config(server.bucket()))

    def _backblaze(self) -> Config:
        server = shared(b2)
        return revealed(server.config(server.bucket()))

    def _ssh(self) -> Config:
        server = shared(ssh_server)
        config = revealed(SshHarness(server, self._shared_folder()).config)
        del config["private_key_file"]
        key = server.sealed_key.read_text(encoding="ascii")
        return config | {"private_key": key, "passphrase": PASSPHRASE}

    def _rclone(self) -> Config:
        return super()._rclone() | {"config_password": "opens-the-Hunter2-configuration"}


@pytest.fixture(scope="module")
def street(request: pytest.FixtureRequest) -> Iterator[Street]:
    # Another rclone in PATH may be a script, whose helpers inherit all that it has.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    service = Service(short_folder(), env={"AWS_EC2_METADATA_DISABLED": "true", "PATH": path})
    service.start()
    here = Street(service, request.getfixturevalue)
    yield here
    here.close()
    assert service.stop() == 0
    assert here.sentinels.found_in(service.log.encode()) == set()
    assert found_in_files(service.home, here.sentinels) == {}
    cleared(service.folder)
    end_shared()


@pytest.mark.parametrize(("kind", "place"), PAIRS.items(), ids=str)
def test_no_child_shows_a_real_secret(street: Street, kind: str, place: str) -> None:
    """Probed, backed up, verified deeply and restored, while every process of the service is looked at."""
    (here, there), where = street.source(kind), street.place(place)
    with Watch(Family(street.service), street.sentinels, pause_seconds=0.005) as watch:
        source = street.added(DATASOURCE, kind, kind, here)
        target = street.added(DATASOURCE, f"{kind} copy", kind, there)
        storage = street.added(STORAGE, f"{place} for {kind}", place, where)
        backup = street.backed_up(kind, source, storage)
        assert street.verified(backup["id"])["ok"] is True
        if kind != "sqlserver":  # the peer cannot be written to
            restored = street.restored(backup["id"], target, f"{kind} copy", drop_existing=True)
            assert restored["status"] == "completed", restored["error_message"]
    assert PROGRAMS[kind] <= watch.programs, watch.programs
    assert any("dataguardian.runner" in line for line in watch.arguments), watch.arguments
    assert watch.in_argv == set()
    assert {entry for entry in watch.in_environment if entry[:2] not in NEEDED_IN_ENVIRONMENT} == set(), watch.holders
    if kind == "postgres":
        assert ("pg_dump", "PGPASSWORD") in {entry[:2] for entry in watch.in_environment}, "what is there is seen"
        readers = [line for line, _ in watch.holders if "--file=" in line]
        assert readers == [], "pg_restore that reads an archive connects to nothing"


def test_every_secret_was_a_real_one(street: Street) -> None:
    """Each secret field of each engine and storage, by the types, was given above, or says why it cannot be."""
    for kind, place in PAIRS.items():
        if kind in NETWORKED and f"{kind} password" not in street.given:
            street.source(kind)
        if not any(where.startswith(f"{place} ") for where in street.given):
            street.place(place)
    adapters = [*ENGINES.adapters.items(), *STORAGES.adapters.items()]
    fields = {
        (kind, ".".join(leaf.path)) for kind, adapter in adapters for leaf in leaves(adapter.config) if leaf.secret
    }
    missing = {(kind, name) for kind, name in fields if f"{kind} {name}" not in street.given}
    assert {(kind, name) for kind, name in missing if not {name, f"{kind} {name}"} & NOT_REAL.keys()} == set()
    assert {
        name for name in NOT_REAL if not any(name in {field, f"{kind} {field}"} for kind, field in missing)
    } == set()
