"""A MongoDB server for tests: SecantusDB, which speaks the wire protocol on storage of its own.

Where it differs from MongoDB, as far as our tests see it: snapshot reads are accepted and not pinned to a moment, dates
that Python cannot hold are refused, a rename forgets the collection's options, users cannot be merged from a backup,
the '=' of a user name does not survive
its SCRAM, `max` of capped collections does nothing, text and hashed indexes and time series are not kept.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from dataguardian.engines.mongodb.tools import find_mongodump
from tests.servers import free_port

USER = "backup admin"
PASSWORD = "pä ss'w\"or=d/@:#%&\\"
START_SECONDS = 60.0


class MongoServer:
    """A running server. `url()` names its databases; `kill()` ends it by its process id."""

    def __init__(
        self, *, auth: bool = False, options: tuple[str, ...] = (), client: dict[str, Any] | None = None
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dg-mongo-"))
        self.port = free_port()
        self.auth = False
        self._options, self._client = options, client or {}
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        if auth:
            self.client.admin.command("createUser", USER, pwd=PASSWORD, roles=["root"])
            self.client.admin.command("fsync")  # and no SIGTERM: now and then it waits for itself for ever then
            self.kill()
            self.auth = True
            self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "secantus", "--port", str(self.port), "--storage-path", str(self.folder / "data")]
        argv += ["--cache-size", "128M", *self._options, *(["--auth"] if self.auth else [])]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        self.client = self.connect()
        self._wait_until_ready()

    def kill(self) -> None:
        if self._process is not None:
            self.client.close()
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, **options: Any) -> MongoClient[dict[str, Any]]:
        credentials = {"username": USER, "password": PASSWORD} if self.auth else {}
        fixed: dict[str, Any] = {"directConnection": True, "serverSelectionTimeoutMS": 5000}
        return MongoClient("127.0.0.1", self.port, **(fixed | credentials | self._client | options))

    def url(
        self, database: str = "", *, user: str | None = USER, password: str | None = PASSWORD, query: str = ""
    ) -> str:
        secret = "" if password is None else ":" + quote(password, safe="")
        account = f"{quote(user, safe='')}{secret}@" if self.auth and user is not None else ""
        options = [query] if query else []
        return f"mongodb://{account}127.0.0.1:{self.port}/{quote(database, safe='')}" + (
            f"?{options[0]}" if query else ""
        )

    def name(self) -> str:
        """Returns the name of a database that no other test has."""
        return f"db{os.getpid()}_{next(self._numbers)}"

    def _wait_until_ready(self) -> None:
        limit = time.monotonic() + START_SECONDS
        while True:
            try:
                with self.connect(serverSelectionTimeoutMS=100) as probe:
                    probe.admin.command("ping")
            except PyMongoError:
                assert self._process is not None
                assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < limit, "the MongoDB server did not start in time"
                time.sleep(0.05)
            else:
                return


def require_mongo() -> None:
    """Fails in CI, skips elsewhere, where the server is not installed."""
    from tests.conftest import missing  # noqa: PLC0415 -- conftest loads plugins before this module is wanted

    if importlib.util.find_spec("secantus") is None:
        missing("a MongoDB server (pip install secantusdb==0.7.0b3)")


def require_programs() -> None:
    """Skips, in CI too, where MongoDB's own programs are not: no package index that the suite may use has them."""
    if absent := [name for name in ("mongodump", "mongorestore") if shutil.which(name) is None]:
        pytest.skip(f"needs {' and '.join(absent)} on PATH (mongodb-database-tools)")
    if find_mongodump() is None:
        pytest.skip(f"{shutil.which('mongodump')} is older than what the engine uses (docs/engines.md)")
