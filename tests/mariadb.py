"""A real MariaDB server for tests, in a folder of its own, on a port from the kernel; `tests/conftest.py` loads it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymysql
import pytest

from tests.servers import PASSWORD, START_SECONDS, free_port

SUPERUSER = "root"
_SETTINGS = ("--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M")
_SETTINGS += ("--bind-address=127.0.0.1", "--skip-log-bin", "--skip-name-resolve", "--character-set-server=utf8mb4")
_SETTINGS += ("--event-scheduler=ON", "--innodb-doublewrite=OFF", "--skip-log-error")


class MariadbServer:
    """A running server. `url()` names its databases; `stop()` and `kill()` end it by its process id."""

    def __init__(self, *options: str) -> None:
        self.programs = _programs()
        self.password = PASSWORD
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="dg-mariadb-"))
        self.socket = str(self.folder / "s")
        self._options = options
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        argv = [self.programs["mariadbd"], "--no-defaults", f"--datadir={self.folder / 'data'}", *_as_root()]
        argv += [f"--port={self.port}", f"--socket={self.socket}", f"--pid-file={self.folder / 'pid'}", *_SETTINGS]
        argv += [f"--init-file={self.folder / 'init.sql'}", *self._options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        self._wait_until_ready()

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(
        self,
        database: str | None = None,
        *,
        user: str = SUPERUSER,
        password: str | None = PASSWORD,
        scheme: str = "mariadb",
    ) -> str:
        secret = "" if password is None else ":" + quote(password, safe="")
        path = "" if database is None else quote(database, safe="")
        return f"{scheme}://{quote(user, safe='')}{secret}@127.0.0.1:{self.port}/{path}"

    def connect(self, database: str | None = None, **options: Any) -> pymysql.Connection[Any]:
        given = {"host": "127.0.0.1", "port": self.port, "user": SUPERUSER, "password": self.password.encode()}
        return pymysql.connect(database=database, **({"autocommit": True, "charset": "utf8mb4"} | given | options))

    def execute(self, database: str | None, *statements: str) -> list[Any]:
        """Runs statements, each on its own; returns the last one's rows."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def database(self, *statements: str, name: str | None = None, options: str = "") -> str:
        """Creates a database that no other test has, runs statements in it and returns its name."""
        name = name or f"db{os.getpid()}_{next(self._numbers)}"
        self.execute(None, f"CREATE DATABASE {quoted(name)} {options}")
        if statements:
            self.execute(name, *statements)
        return name

    def databases(self) -> set[str]:
        return {row[0] for row in self.execute(None, "SHOW DATABASES")}

    def run(self, program: str, *arguments: str, data: bytes | None = None) -> bytes:
        """Runs a stock client program as root; returns its output, raises when it fails."""
        argv = [self.programs[program], "--no-defaults", f"--socket={self.socket}", f"--user={SUPERUSER}", *arguments]
        environment = {**os.environ, "MYSQL_PWD": self.password}
        done = subprocess.run(argv, env=environment, input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def shell(self, command: str, data: bytes) -> str:
        """Runs a line as people paste it, with a client configuration that names this server."""
        configuration = self.folder / "home"
        configuration.mkdir(exist_ok=True)
        escaped = self.password.replace("\\", "\\\\").replace('"', '\\"')
        text = f'[client]\nsocket={self.socket}\nuser={SUPERUSER}\npassword="{escaped}"\n'
        (configuration / ".my.cnf").write_text(text, encoding="utf-8")
        environment = {**os.environ, "HOME": str(configuration)}
        done = subprocess.run(["bash", "-c", command], env=environment, input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def _initialise(self) -> None:
        init = self.folder / "init.sql"
        secret = self.password.replace("\\", "\\\\").replace("'", "\\'")
        accounts = (f"{SUPERUSER}@{host}" for host in ("localhost", "'127.0.0.1'"))
        lines = ["SET NAMES utf8mb4;"]  # the server reads a statement a line
        for account in accounts:
            lines.append(f"CREATE OR REPLACE USER {account} IDENTIFIED BY '{secret}';")
            lines.append(f"GRANT ALL ON *.* TO {account} WITH GRANT OPTION;")
        init.write_text("\n".join(lines) + "\n", encoding="utf-8")
        argv = [self.programs["mariadb-install-db"], "--no-defaults", f"--datadir={self.folder / 'data'}", *_as_root()]
        argv += ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        subprocess.run(argv, check=True, capture_output=True)

    def _end(self, signum: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signum)
            self._process.wait(60)
            self._process = None

    def _wait_until_ready(self) -> None:
        limit = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
            except pymysql.OperationalError:
                assert self._process is not None
                assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < limit, "MariaDB did not start in time"
                time.sleep(0.05)
            else:
                return


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


@contextmanager
def mariadb_server(*options: str) -> Iterator[MariadbServer]:
    """Yields a fresh server; fails or skips, by name, where MariaDB is not installed."""
    server = MariadbServer(*options)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariadbServer]:
    with mariadb_server() as server:
        yield server


def _programs() -> dict[str, str]:
    from tests.conftest import missing  # noqa: PLC0415 -- conftest loads this module

    found = {name: shutil.which(name) or f"/usr/sbin/{name}" for name in ("mariadbd", "mariadb-install-db")}
    found |= {name: shutil.which(name) or "" for name in ("mariadb", "mariadb-dump")}
    for name, path in found.items():
        if not os.access(path, os.X_OK):
            missing(f"{name} (apt-get install mariadb-server mariadb-client)")
    return found


def _as_root() -> list[str]:
    """The server runs as root only when it is told to."""
    return ["--user=root"] if os.geteuid() == 0 else []
