"""SecantusDB, a server of MongoDB's protocol, for the conformance suite."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from dataguardian.domain.urls import parse_url
from dataguardian.engines.mongodb import server
from tests.engines.conformance import EngineFixture
from tests.engines.mongodb_tools import build_everything, content
from tests.mongo import MongoServer, require_mongo

ODD = ["-leading-dash", "quo'te;--", "ÜPPER日本🐘", "%s{}1", "a=b&c?d#e", "@:[x]"]
FILLER = "0123456789abcdef" * 4096  # 64 KiB: the test server's time goes by documents, not by bytes


class MongoFixture(EngineFixture):
    type = "mongodb"
    # The server accepts snapshot reads and does not pin them: test_mongodb_wire.py shows what we ask of one that does.
    is_consistent = False

    def __init__(self) -> None:
        require_mongo()
        self._server = MongoServer(auth=True)
        # A killed server on this machine needs no five seconds to be given up.
        self._patience, server._SELECTION_SECONDS = server._SELECTION_SECONDS, 1.5
        self._numbers = itertools.count(1)
        self._large = ""

    def close(self) -> None:
        server._SELECTION_SECONDS = self._patience
        self._server.close()

    def sample(self) -> str:
        name = self._server.name()
        build_everything(self._server.client, name)
        return self._server.url(name)

    def large(self) -> str:
        if not self._large:
            self._large = self._filled(400)
            self._make_durable()
        return self._server.url(self._large)

    def empty(self) -> str:
        name = self._server.name()
        self._server.client[name].create_collection("nothing in it")
        return self._server.url(name)

    def target(self) -> str:
        return self._server.url(self._server.name())

    def odd(self) -> Sequence[str]:
        return [self._odd(name) for name in ODD]

    def missing(self) -> str:
        return self._server.url("no-such-database")

    def content(self, address: str) -> Mapping[str, Any]:
        return content(self._server.client, parse_url(address).path[1:])

    def names(self) -> set[str]:
        client = self._server.client
        databases = client.list_database_names()
        return {f"{name}.{collection}" for name in databases for collection in client[name].list_collection_names()}

    def ledger(self) -> str:
        name = self._filled(200)
        self._server.client[name]["a_from"].insert_one({"_id": 1, "n": 0})
        self._server.client[name]["z_to"].insert_one({"_id": 1, "n": 0})
        self._make_durable()
        return self._server.url(name)

    def kill(self) -> None:
        self._server.kill()

    def restart(self) -> None:
        self._server.start()

    def wrong_passwords(self) -> Sequence[str]:
        server = self._server
        return [
            server.url("admin", password="wrong-pässword"),
            server.url("admin", password=None),
            server.url("admin", user=None),
            server.url("admin", user="nobody-here"),
        ]

    def reader(self, address: str) -> str:
        name = parse_url(address).path[1:]
        return self._user(name, [{"role": "read", "db": name}])

    def unprivileged(self) -> Sequence[tuple[str, str]]:
        name = self._filled(10)
        return [(self._user(name, [{"role": "read", "db": "elsewhere"}]), "listCollections")]

    def _make_durable(self) -> None:
        """Else a killed server takes along what it has acknowledged."""
        self._server.client.admin.command("fsync")

    def _user(self, database: str, roles: list[dict[str, str]]) -> str:
        user = f"reader {next(self._numbers)}"
        self._server.client[database].command("createUser", user, pwd="read only", roles=roles)
        return self._server.url(database, user=user, password="read only")

    def _filled(self, count: int) -> str:
        name = self._server.name()
        documents = [{"_id": number, "text": FILLER} for number in range(count)]
        for start in range(0, count, 100):
            self._server.client[name]["filler"].insert_many(documents[start : start + 100])
        return name

    def _odd(self, name: str) -> str:
        """A database, a user, a password, a collection, a field and an index of that name."""
        database = f"{name}{next(self._numbers)}"
        user, password = f"{name} user/ {next(self._numbers)}".replace("=", ""), f"{name}pass/word".replace("🐘", "")
        collection = self._server.client[database][name]
        collection.insert_one({name: name, "_id": name})
        collection.create_index(name.strip("."), name=name)
        self._server.client[database].command("create", f"{name} view", viewOn=name, pipeline=[])
        roles = [{"role": "dbOwner", "db": database}]
        self._server.client.admin.command("createUser", user, pwd=password, roles=roles)
        account = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"mongodb://{account}@127.0.0.1:{self._server.port}/{quote(database, safe='')}?authSource=admin"


FIXTURES = [MongoFixture]
