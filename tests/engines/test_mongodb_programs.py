"""MongoDB's own mongodump and mongorestore, and ours: each reads what the other wrote. Where they are on PATH."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import (
    Binary,
    Code,
    DatetimeMS,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
)

from dataguardian.domain.errors import DumpFailedError, IntegrityError, UsageError
from dataguardian.engines.base import DumpOptions, DumpStream
from dataguardian.engines.mongodb.archive import KIND, Prelude
from dataguardian.engines.mongodb.dump import Content, restore_by_hand
from dataguardian.engines.mongodb.native import MongodumpDump
from dataguardian.engines.mongodb.server import Server
from dataguardian.engines.mongodb.tools import needed_mongodump
from tests.cli.program import Program, finished, running, wait_for
from tests.engines.conformance import Kept, counted, dump, engine_at, living_children, restore, validate
from tests.engines.mongodb_peer import Command, MongoPeer
from tests.engines.mongodb_tools import Archive, build_everything, content
from tests.engines.test_mongodb import config_of, uri
from tests.mongo import PASSWORD, MongoServer, require_mongo, require_programs

BY_DRIVER, BY_MONGODUMP = "dump_with=driver", "dump_with=mongodump"
BUCKETS = [{"_id": ObjectId(), "control": {"version": 1}, "meta": n, "data": {"t": {"0": n}}} for n in range(3)]
SERIES = {"timeseries": {"timeField": "t", "metaField": "m", "granularity": "seconds", "bucketMaxSpanSeconds": 3600}}
ADMIN: dict[str, list[dict[str, Any]]] = {
    "system.users": [{"_id": "shop.bob", "user": "bob", "db": "shop", "credentials": {}, "roles": []}],
    "system.roles": [{"_id": "shop.r", "role": "r", "db": "shop", "privileges": [], "roles": []}],
    "system.version": [{"_id": "authSchema", "currentVersion": 5}],
}


@pytest.fixture(autouse=True)
def _programs() -> None:
    require_programs()


@pytest.fixture(scope="module")
def mongo() -> Iterator[MongoServer]:
    require_mongo()
    require_programs()
    server = MongoServer()
    yield server
    server.close()


def run(program: str, port: int, *arguments: str, data: bytes | None = None) -> bytes:
    """Runs a stock program against a server of this machine; returns its output, and asks for exit code 0."""
    address = f"--uri=mongodb://127.0.0.1:{port}/?directConnection=true"
    done = subprocess.run([program, address, "--archive", *arguments], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout


def by_hand(name: str, *, users: bool = False) -> list[str]:
    """Returns the arguments of the last command by which a manifest says how to restore."""
    program, archive, *arguments = shlex.split(restore_by_hand(name, users=users)[-1])
    assert (program, archive) == ("mongorestore", "--archive")
    return arguments


def as_mongorestore_reads(shown: dict[str, Any]) -> dict[str, Any]:
    """MongoDB lists the collation that an index took over from its collection; the test server does not, so that
    mongorestore, which goes by what is listed, makes it a simple one. See `create._is_plain_simple`.
    """
    for collection in shown.values():
        for index in collection.get("indexes", []):
            if "collation" in collection["options"] and index["name"] != "_id_":
                index.setdefault("collation", {"locale": "simple"})
    return shown


def assert_alike(ours: Archive, theirs: Archive, collection: str) -> None:
    """Ours says of a collection what theirs says, in the same order; older mongodumps do not tell the type."""
    said, heard = ours.metadata(collection), theirs.metadata(collection)
    assert json.dumps({key: said.get(key) for key in heard}) == json.dumps(heard)
    assert set(said) - set(heard) <= {"type"}


@contextmanager
def dumping(address: str) -> Iterator[DumpStream]:
    """The only stream of a dump that goes on."""
    streams = engine_at(address).dump(DumpOptions())
    with next(streams) as stream:
        yield stream
    assert next(streams, None) is None


def drained(stream: DumpStream) -> None:
    while stream.readinto(memoryview(bytearray(1 << 20))):
        pass
    stream.finish()


# Each reads the other's


def test_mongorestore_reads_what_the_driver_wrote(mongo: MongoServer) -> None:
    """The command of the manifest brings back everything, under another name: options, indexes, views, every document
    to the last bit.
    """
    source, target = mongo.name(), mongo.name()
    build_everything(mongo.client, source)
    (stream,) = dump(mongo.url(source, query=BY_DRIVER))
    renamed = [f"--nsFrom={source}.*", f"--nsTo={target}.*"]
    run("mongorestore", mongo.port, *by_hand(source), *renamed, data=stream.data)
    assert content(mongo.client, target) == as_mongorestore_reads(content(mongo.client, source))


def test_mongorestore_reads_every_database_of_a_server(mongo: MongoServer) -> None:
    """A whole server is a stream per database, and each of them goes back to where it was."""
    names = [mongo.name(), mongo.name()]
    build_everything(mongo.client, names[0])
    mongo.client[names[1]]["things"].insert_many([{"_id": number, "text": "x" * 1000} for number in range(3000)])
    before = [as_mongorestore_reads(content(mongo.client, name)) for name in names]
    streams = [stream for stream in dump(mongo.url(query=BY_DRIVER)) if stream.name in names]
    for stream in streams:
        mongo.client.drop_database(stream.name)
        run("mongorestore", mongo.port, *by_hand(stream.name), data=stream.data)
    assert [content(mongo.client, name) for name in names] == before


@pytest.mark.parametrize("arguments", [(), ("--numParallelCollections=1",), ("--numParallelCollections=16",)])
def test_our_restore_reads_what_mongodump_wrote(mongo: MongoServer, arguments: Sequence[str]) -> None:
    """However many collections it read at once: one of everything comes back the same, and nothing is warned of."""
    source, target = mongo.name(), mongo.name()
    build_everything(mongo.client, source)
    for name in ("big", "bigger"):
        mongo.client[source][name].insert_many([{"_id": number, "text": name * 300} for number in range(3000)])
    stream = Kept(source, KIND, run("mongodump", mongo.port, f"--db={source}", *arguments), {})
    validate("mongodb", stream)
    assert restore(mongo.url(target), [stream]) == []
    assert content(mongo.client, target) == content(mongo.client, source)


def test_both_write_the_same(mongo: MongoServer) -> None:
    """Collections, options, indexes and documents of the two archives are equal; only order and tool differ."""
    name = mongo.name()
    build_everything(mongo.client, name)
    ours, theirs = (Archive(dump(mongo.url(name, query=query))[0].data) for query in (BY_DRIVER, BY_MONGODUMP))
    assert ours.documents == theirs.documents
    assert ours.header["server_version"] == theirs.header["server_version"]
    for one in ours.listed:
        (other,) = [other for other in theirs.listed if other["collection"] == one["collection"]]
        assert other.get("type", one["type"]) == one["type"]
        assert_alike(ours, theirs, one["collection"])
    assert len(ours.listed) == len(theirs.listed)


def test_an_archive_of_a_whole_server_with_its_oplog() -> None:
    """What `mongodump --archive --oplog` of everything wrote goes back to a server, with a word on the writes that are
    not replayed; one database is no place for it.
    """
    require_mongo()
    server = MongoServer()
    try:
        build_everything(server.client, "shop")
        server.client["other"]["things"].insert_one({"_id": 1})
        before = [content(server.client, name) for name in ("shop", "other")]
        stream = Kept("all", KIND, run("mongodump", server.port, "--oplog"), {})
        (entries,) = [held for name, held in Archive(stream.data).documents.items() if name == ("", "oplog")]
        validate("mongodb", stream)
        with pytest.raises(UsageError, match="several databases"):
            restore(server.url("one"), [stream])
        for name in ("shop", "other"):
            server.client.drop_database(name)
        (warning,) = restore(server.url(), [stream])
        assert f"{len(entries)} writes that mongodump --oplog saw" in warning
        assert [content(server.client, name) for name in ("shop", "other")] == before
        assert "one" not in server.client.list_database_names()
    finally:
        server.close()


# What the test server does not have: users that can be merged, time series


def _cursor(command: Command, documents: Sequence[dict[str, Any]]) -> Command:
    return {"ok": 1.0, "cursor": {"id": bson.Int64(0), "ns": f"{command['$db']}.x", "firstBatch": list(documents)}}


def _found(command: Command) -> Command:
    """Users, roles and buckets of a time series, in the collections that a server keeps them in."""
    held = {**ADMIN, "system.buckets.things": BUCKETS, "things": BUCKETS}
    return _cursor(command, held.get(command["find"], []))


def _peer(
    info: dict[str, Any] | None = None, version: str = "7.0.14", answers: dict[str, Any] | None = None
) -> MongoPeer:
    known: dict[str, Any] = {
        "find": _found,
        "getParameter": lambda _: {"ok": 1.0, "authSchemaVersion": 5},
        "aggregate": lambda command: _cursor(command, [{"n": 3}]),
        "count": lambda _: {"ok": 1.0, "n": 3},
    }
    return MongoPeer(replica_set=False, answers=known | (answers or {}), info=info, version=version)


def _target(version: str = "7.0.14", answers: dict[str, Any] | None = None) -> MongoPeer:
    """A server that has nothing, takes everything and remembers it."""
    known: dict[str, Any] = {
        "insert": lambda command: {"ok": 1.0, "n": len(command["documents"])},
        "find": lambda command: _cursor(command, []),
        "listCollections": lambda command: _cursor(command, []),
        "getParameter": lambda _: {"ok": 1.0, "authSchemaVersion": 5},
    }
    return MongoPeer(replica_set=False, answers=known | (answers or {}), version=version)


def test_users_and_roles_of_a_database() -> None:
    """Both programs write them alike, and mongorestore hands ours to the server's merge, as our own restore does."""
    with _peer() as peer:
        ours, theirs = (dump(peer.url(query))[0] for query in (BY_DRIVER, BY_MONGODUMP))
    names = {("shop", f"$admin.{name}"): list(map(bson.encode, held)) for name, held in ADMIN.items()}
    for stream in (ours, theirs):
        validate("mongodb", stream)
        archive = Archive(stream.data)
        assert {name: archive.documents[name] for name in names} == names
        assert set(archive.order[:3]) == set(names)
    with _target() as target:
        run("mongorestore", target.port, *by_hand("shop", users=True), data=ours.data)
        (merge,) = target.named("_mergeAuthzCollections")
        merged = {command["insert"]: command["documents"] for command in target.named("insert")}
    assert (merge["db"], merge["drop"]) == ("shop", False)
    assert merged["tempusers"] == ADMIN["system.users"]
    assert merged["temproles"] == ADMIN["system.roles"]
    with _target() as target:
        restore(target.url(), [theirs])
        (merge,) = target.named("_mergeAuthzCollections")
        inserted = [command["documents"] for command in target.named("insert") if command["$db"] == "admin"]
    assert merge["db"] == "shop"
    assert inserted == [ADMIN["system.users"], ADMIN["system.roles"]]


def test_users_that_mongodump_cannot_read() -> None:
    """It is told that they are missing, and the line for restoring by hand does not ask for them."""
    unknown = {"getParameter": lambda _: {"ok": 0.0, "code": 59, "codeName": "CommandNotFound", "errmsg": "unknown"}}
    with _peer(answers=unknown) as peer, dumping(peer.url(BY_MONGODUMP)) as stream:
        drained(stream)
        assert "its users and roles are not in the backup: mongodump cannot read them here" in stream.warnings
        assert list(stream.restore_by_hand) == restore_by_hand("shop", users=False)


@pytest.mark.parametrize(("version", "place"), [("7.0.14", "system.buckets.things"), ("8.3.0", "things")])
def test_time_series(version: str, place: str) -> None:
    """The buckets travel as they are, under the name that the server's release keeps them by, in both directions."""
    if place == "things" and tuple(map(int, needed_mongodump().version.split("."))) < (100, 16):
        pytest.skip("MongoDB 8.3 needs mongodump 100.16")
    with _peer({"type": "timeseries", "options": SERIES}, version) as peer:
        streams = [dump(peer.url(BY_MONGODUMP))[0]]
        if place != "things":  # what newer servers have, only mongodump reads
            streams.append(dump(peer.url(BY_DRIVER))[0])
    for stream in streams:
        validate("mongodb", stream)
        assert Archive(stream.data).documents["shop", place] == [bson.encode(bucket) for bucket in BUCKETS]
        with _target(version) as target:
            restore(target.url(), [stream])
            _assert_series(target, place)
        with _target(version) as target:
            run("mongorestore", target.port, *by_hand("shop"), data=stream.data)
            _assert_series(target, place)


def _assert_series(target: MongoPeer, place: str) -> None:
    (create,) = target.named("create")
    assert (create["create"], create["timeseries"]) == ("things", SERIES["timeseries"])
    (insert,) = [command for command in target.named("insert") if command["insert"] == place]
    assert insert["documents"] == BUCKETS


FRENCH = {"locale": "fr", "caseLevel": False, "strength": 3, "backwards": True, "version": "57.1"}
FILTER: dict[str, Any] = {
    "far": DatetimeMS(2**60), "long ago": DatetimeMS(-5), "date": DatetimeMS(1_700_000_000_123),
    "int64": Int64(5), "int32": 5, "double": 1.0, "infinite": float("-inf"), "decimal": Decimal128("1.50"),
    "pattern": Regex("^a/b", "im"), "binary": Binary(b"\0\1", 0), "uuid": Binary(bytes(16), 4), "old": Binary(b"x", 3),
    "code": Code("f()"), "scoped": Code("f()", {"a": 1}), "min": MinKey(), "max": MaxKey(), "time": Timestamp(1, 2),
    "oid": ObjectId("65f000000000000000000001"), "reference": DBRef("a", 1), "null": None,
    "operator": {"$regex": "x", "$options": "i"}, "mixed": {"$regex": Regex("x", "i")}, "type": {"$type": "int"},
    "text": '\u2028ü🐘"\\\0<>&', "$jsonSchema": {"properties": {"a": {"minimum": Int64(3)}}},
}  # fmt: skip
EVERY_OPTION: dict[str, Any] = {
    "capped": True,
    "size": Int64(1 << 40),
    "max": Int64(5),
    "validator": FILTER,
    "collation": FRENCH,
    "changeStreamPreAndPostImages": {"enabled": True},
    "storageEngine": {"wiredTiger": {"configString": "block_compressor=zlib"}},
}
SIMPLE = {"locale": "simple"}
EVERY_INDEX: list[dict[str, Any]] = [
    {"v": 2, "key": {"_id": 1}, "name": "_id_", "collation": FRENCH},
    {"v": 2, "key": {"a": 1, "b": -1.0, "c": Int64(1)}, "name": "mixed", "unique": True, "sparse": True, "hidden": True}
    | {"expireAfterSeconds": Int64(10), "collation": FRENCH},
    {"v": 2, "key": {"_fts": "text", "_ftsx": 1}, "name": "text", "weights": {"a": 1, "b": Int64(2)}}
    | {"default_language": "english", "language_override": "lang", "textIndexVersion": 3, "collation": SIMPLE},
    {"v": 2, "key": {"h": "hashed"}, "name": "hashed"},
    {"v": 2, "key": {"$**": 1}, "name": "wild", "wildcardProjection": {"a": 1, "_id": 0}},
    {"v": 2, "key": {"g": "2d"}, "name": "flat", "bits": 26, "min": -180.0, "max": 180.5},
    {"v": 2, "key": {"s": "2dsphere"}, "name": "round", "2dsphereIndexVersion": 3},
    {"v": 2, "key": {"p": 1}, "name": "part", "partialFilterExpression": FILTER},
    {"v": 2, "key": {"a.b-c d": 1}, "name": "odd name \"'$ü🐘"},
]


def test_every_option_of_a_collection_and_of_its_indexes() -> None:
    """Both programs tell them alike, and whoever restores, whichever archive, asks a server for the same collection and
    the same indexes, numbers and dates to their type.
    """
    lists = {"listIndexes": lambda command: _cursor(command, EVERY_INDEX)}
    with _peer({"options": EVERY_OPTION}, answers=lists) as peer:
        streams = [dump(peer.url(query))[0] for query in (BY_DRIVER, BY_MONGODUMP)]
    ours, theirs = (Archive(stream.data) for stream in streams)
    assert_alike(ours, theirs, "things")
    assert ours.documents["shop", "things"] == theirs.documents["shop", "things"] != []
    asked = []
    for stream in streams:
        with _target() as target:
            run("mongorestore", target.port, *by_hand("shop"), data=stream.data)
            asked.append(_asked(target))
        probe = {"v": 2, "key": {"dataguardian": 1}, "name": "dataguardian", "collation": FRENCH}
        with _target(answers={"listIndexes": lambda command: _cursor(command, [probe])}) as target:  # noqa: B023 -- at once
            assert restore(target.url(), [stream]) == []
            asked.append(_asked(target))
    assert asked[0]["validator"] == bson.encode(FILTER)
    assert asked[0]["size"] == bson.encode({"": Int64(1 << 40)})
    assert len(asked[0]) == len(EVERY_OPTION) + len(EVERY_INDEX) - 1
    assert all(one == asked[0] for one in asked)


def _asked(target: MongoPeer) -> dict[str, Any]:
    """Returns what the first collection was to have: its options and indexes by name, encoded, their order left out."""
    create = target.named("create")[0]
    asked = [command["indexes"] for command in target.named("createIndexes")]
    indexes = next(indexes for indexes in asked if indexes[0]["name"] != "dataguardian")
    options = {key: value for key, value in create.items() if key in EVERY_OPTION}
    found = {key: bson.encode(value if isinstance(value, dict) else {"": value}) for key, value in options.items()}
    for index in indexes:
        parts = {key: _unordered(value) for key, value in index.items() if key not in ("ns", "v", "key")}
        found[f"index {index['name']}"] = [bson.encode(index["key"]), parts]
    return found


def _unordered(value: Any) -> Any:
    """Older releases of mongorestore mix up the order of an index's collation."""
    if isinstance(value, dict):
        return {key: _unordered(part) for key, part in value.items()}
    return bson.encode({"": value})


# The engine with mongodump


def test_a_backup_and_its_way_back_by_hand(mongo: MongoServer, tmp_path: Path) -> None:
    """The program's backup by mongodump is deep-verified, and the manifest's commands restore it by hand."""
    program, source, target = Program(tmp_path), mongo.name(), mongo.name()
    build_everything(mongo.client, source)
    address = mongo.url(source, query=BY_MONGODUMP)
    made = program.run("backup", address, program.storage, "--part-size", "64KiB", "--json").json
    assert program.run("verify", "--deep", made["backup"]).code == 0
    (manifest,) = (tmp_path / "storage").rglob("manifest.json")
    document = manifest.read_text()
    assert '"mongodump"' in document
    assert needed_mongodump().version in document
    (folder,) = [path for path in manifest.parent.iterdir() if path.is_dir()]
    renamed = f"--nsFrom='{source}.*' --nsTo='{target}.*'"
    command = f"cat {folder}/* | zstd -d | {restore_by_hand(source, users=False)[0]} --port={mongo.port} {renamed}"
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert content(mongo.client, target) == as_mongorestore_reads(content(mongo.client, source))


def test_nothing_secret_can_be_seen_while_mongodump_runs() -> None:
    """Neither its command line nor its environment has the password; the file that has it is ours alone, and goes."""
    require_mongo()
    server = MongoServer(auth=True)
    try:
        server.client["shop"]["big"].insert_many([{"_id": number, "text": "x" * 60_000} for number in range(400)])
        before = living_children()
        with next(
            engine_at(server.url("shop", query=f"{BY_MONGODUMP}&authSource=admin")).dump(DumpOptions())
        ) as stream:
            assert stream.readinto(memoryview(bytearray(4096))) > 0
            (pid,) = living_children() - before
            seen = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
            (config,) = [one[9:] for one in seen[0].decode().split("\0") if one.startswith("--config=")]
            assert stat.S_IMODE(Path(config).stat().st_mode) == 0o600
            assert stat.S_IMODE(Path(config).parent.stat().st_mode) & 0o077 == 0
            text = Path(config).read_text()
        secret = uri(server.url("shop")).partition("@")[0].rpartition(":")[2]
        assert secret in text
        assert not any(password in place for place in seen for password in (secret.encode(), PASSWORD.encode()))
        assert not Path(config).exists() or secret not in Path(config).read_text(errors="replace")
        assert living_children() == before
    finally:
        server.close()


def test_a_refused_mongodump_does_not_show_the_password() -> None:
    """It repeats its whole address when it cannot sign in; we do not."""
    require_mongo()
    server = MongoServer(auth=True)
    try:
        server.client["shop"]["things"].insert_one({"_id": 1})
        wrong = uri(server.url("shop", password="Wröng/pass word%41'"))
        with Server(config_of(server.url("shop"))).connect() as link:
            empty = Content(Prelude("7.0.0", ""), users=False)
            with MongodumpDump(link, wrong, "shop", needed_mongodump(), empty) as stream:
                while stream.readinto(memoryview(bytearray(1000))):
                    pass
                with pytest.raises(DumpFailedError, match=r"(?i)authentication failed") as caught:
                    stream.finish()
        assert "pass" not in caught.value.message
        assert "%C3%B6ng" not in caught.value.message
    finally:
        server.close()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_mongodump_that_is_killed(mongo: MongoServer, signum: signal.Signals) -> None:
    """Half an archive, whatever the way it ended, is a failed dump."""
    name = mongo.name()
    mongo.client[name]["big"].insert_many([{"_id": number, "text": "x" * 60_000} for number in range(400)])
    before = living_children()
    with dumping(mongo.url(name, query=BY_MONGODUMP)) as stream:
        buffer = memoryview(bytearray(4096))
        assert stream.readinto(buffer) > 0
        for pid in living_children() - before:
            os.kill(pid, signum)
        with pytest.raises(DumpFailedError):
            drained(stream)
    assert living_children() == before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_stopped_takes_mongodump_along(tmp_path: Path, signum: signal.Signals) -> None:
    """However it ends while a server lets mongodump wait, no child is left, no backup, and no file with the address."""
    hold = threading.Event()
    answers: dict[str, Any] = {
        "getMore": lambda _: {} if hold.wait(60) else None,
        "count": lambda _: {"ok": 1.0, "n": 1000},
        "aggregate": lambda command: _cursor(command, [{"n": 1000}]),
    }
    program = Program(tmp_path, {"TMPDIR": str(tmp_path / "staging")})
    documents = [bson.encode({"_id": number, "text": "x" * 1000}) for number in range(1000)]
    with MongoPeer(documents, replica_set=False, answers=answers) as peer:
        process, mark = program.start("backup", peer.url(BY_MONGODUMP), program.storage)
        try:
            wait_for(lambda: peer.named("getMore"), "mongodump to read on")
            assert any("mongodump" in line for line in running(mark).values())
            process.send_signal(signum)
            assert finished(process, mark).code != 0
            if (
                signum == signal.SIGKILL
            ):  # told to end, but not killed, mongodump waits for the answer that it asked for
                hold.set()
            wait_for(lambda: not running(mark), "the end of mongodump")
        finally:
            hold.set()
    assert "manifest.json" not in str(program.stored)
    assert program.staged == []


def test_a_collection_that_goes_while_mongodump_runs_is_told(mongo: MongoServer) -> None:
    """It may be empty or missing in the archive, and mongodump itself calls that a success."""
    name = mongo.name()
    for collection in ("goes", "stays"):
        mongo.client[name][collection].insert_one({"_id": 1})
    with dumping(mongo.url(name, query=BY_MONGODUMP)) as stream:
        mongo.client[name]["goes"].drop()
        drained(stream)
        told = [warning for warning in stream.warnings if "while it was dumped" in warning]
    assert told == [f"{name}.goes was dropped or renamed while it was dumped"]


def test_damage_of_a_real_archive_is_found(mongo: MongoServer) -> None:
    """A cut or a flipped bit in any collection's data fails deep verification and restore, and mongorestore too."""
    name, target = mongo.name(), mongo.name()
    mongo.client[name]["things"].insert_many([{"_id": number, "text": "x" * 100} for number in range(500)])
    whole = run("mongodump", mongo.port, f"--db={name}")
    place = whole.index(b"x" * 100) + 50
    flipped = whole[:place] + b"y" + whole[place + 1 :]
    for damaged in (whole[: len(whole) // 2], whole[:-4], whole[:200], flipped):
        stream = Kept(name, KIND, damaged, {})
        with pytest.raises(IntegrityError):
            validate("mongodb", stream)
        with pytest.raises(IntegrityError):
            restore(mongo.url(target), [stream])
        with pytest.raises(AssertionError, match="archive"):
            run("mongorestore", mongo.port, f"--nsFrom={name}.*", f"--nsTo={mongo.name()}.*", data=damaged)
    assert target not in mongo.client.list_database_names()
    assert counted(mongo.url(name)) == {"things": 500}
