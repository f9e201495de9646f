"""MongoDB against SecantusDB and against a scripted peer: what the contract suite does not ask of every engine."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Timestamp
from pymongo.errors import OperationFailure

from dataguardian.domain.errors import (
    AuthenticationError,
    DumpFailedError,
    MissingToolError,
    NotAllowedError,
    RestoreFailedError,
    UnreachableError,
    UsageError,
)
from dataguardian.domain.urls import parse_url
from dataguardian.engines.base import DumpOptions, RestoreOptions
from dataguardian.engines.mongodb import move, tools
from dataguardian.engines.mongodb.archive import KIND
from dataguardian.engines.mongodb.config import MongoConfig, uri_of
from dataguardian.engines.mongodb.server import Link, Server
from dataguardian.engines.mongodb.tlsfiles import private_file
from dataguardian.engines.network import Endpoint
from dataguardian.engines.registry import engine_config
from tests.engines.conformance import Kept, dump, engine_at, restore, validate
from tests.engines.mongodb_peer import MongoPeer
from tests.engines.mongodb_tools import EVERY_TYPE, Archive, build_everything, content
from tests.mongo import MongoServer, require_mongo

SECRET = "s3cret/wörd"


@pytest.fixture(scope="session")
def mongo() -> Iterator[MongoServer]:
    require_mongo()
    server = MongoServer()
    yield server
    server.close()


def config_of(address: str) -> MongoConfig:
    config = engine_config(parse_url(address))
    assert isinstance(config, MongoConfig)
    return config


def uri(address: str, **options: str) -> str:
    config = config_of(address)
    return uri_of(config, Endpoint(config.host or "localhost", config.port or 27017, ""), "admin", options)


# Addresses


def test_addresses_as_other_clients_write_them() -> None:
    """What people copy from their applications is understood: several hosts, TLS, an authentication database."""
    config = config_of(
        "mongodb://me:secret@one:27018,two/shop?authSource=people&replicaSet=rs0&tls=true&tlsCAFile=/ca.pem&retryWrites=true&w=majority"
    )
    assert (config.host, config.database, config.auth_source) == ("one:27018,two", "shop", "people")
    assert (config.replica_set, config.ssl_mode, config.ssl_ca) == ("rs0", "verify-full", "/ca.pem")
    assert "secret" not in config.describe()
    assert config_of("mongodb+srv://me@cluster.example/shop").describe().startswith("mongodb+srv://me@cluster.example")


@pytest.mark.parametrize(
    "address",
    [
        "mongodb://h/a.b",
        "mongodb://h/local",
        "mongodb://h/" + "x" * 64,
        "mongodb://h/db?nonsense=1",
        "mongodb://h/db?authMechanism=MAGIC",
        "mongodb+srv://h:27017/db",
        "mongodb://%2Ftmp%2Fx.sock/db",
    ],
)
def test_addresses_that_cannot_be(address: str) -> None:
    """Names that no database can have, and options that do not exist, are refused before anything is asked."""
    with pytest.raises(UsageError):
        config_of(address)


def test_the_password_is_only_in_what_the_driver_gets() -> None:
    """Odd characters are encoded in the URI, and nothing else ever shows it."""
    address = "mongodb://m%40e:p%2F%40%3A%25@[::1]:1/db"
    assert uri(address).startswith("mongodb://m%40e:p%2F%40%3A%25@[::1]:1/?authSource=admin&")
    assert "p/@" not in repr(config_of(address)) + config_of(address).describe()


# What is in an archive


def test_a_stranger_reads_our_archive(mongo: MongoServer) -> None:
    """The strict reader finds all collections with options and indexes, and every document as the server has it."""
    name = mongo.name()
    build_everything(mongo.client, name)
    (stream,) = dump(mongo.url(name, query="dump_with=driver"))
    archive = Archive(stream.data)
    shown = content(mongo.client, name)
    assert {one["collection"] for one in archive.listed} == set(shown)
    assert archive.documents[name, "types"] == [bson.encode(EVERY_TYPE)]
    assert archive.metadata("capped")["options"] == {"capped": True, "size": {"$numberInt": "65536"}}
    assert archive.metadata("recent")["type"] == "view"
    assert archive.documents[name, "recent"] == []
    by_name = {index["name"]: index for index in archive.metadata("orders")["indexes"]}
    assert by_name["by sku"]["key"] == {"sku": {"$numberInt": "1"}, "_id": {"$numberInt": "-1"}}


@pytest.mark.parametrize("replaced", [False, True], ids=["into nothing", "over something"])
def test_what_is_restored_outlasts_its_server(mongo: MongoServer, replaced: bool) -> None:
    """A server that is killed in the very moment in which the restore ends has all of it when it is back."""
    name, copy = mongo.name(), mongo.name()
    build_everything(mongo.client, name)
    if replaced:
        mongo.client[copy]["old"].insert_one({"_id": 1})
    before = content(mongo.client, name)
    streams = dump(mongo.url(name, query="dump_with=driver"))
    warnings = restore(mongo.url(copy), streams, drop_existing=replaced)
    mongo.kill()
    mongo.start()
    assert warnings == []
    after = content(mongo.client, copy)
    assert {key: value for key, value in after.items() if not key.startswith("__dataguardian_old_")} == before


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": 1.0, "n": 1, "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
        {"ok": 0.0, "code": 2, "errmsg": "waiting for replication timed out, said otherwise"},
    ],
    ids=["a write concern", "a refusal"],
)
def test_what_is_not_known_to_be_on_disk_is_told(
    mongo: MongoServer, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    """A server of which too few members take the restore has it all the same; a warning says what is missing."""
    name, copy = mongo.name(), mongo.name()
    mongo.client[name]["things"].insert_one({"_id": 1})
    streams, asked = dump(mongo.url(name, query="dump_with=driver")), []
    original = Link.command

    def command(link: Link, database: str, command: Mapping[str, Any]) -> dict[str, Any]:
        if "writeConcern" not in command:
            return original(link, database, command)
        asked.append(command["writeConcern"])
        if not answer["ok"]:
            raise OperationFailure(answer["errmsg"], answer["code"], answer)
        return original(link, database, command) | answer

    monkeypatch.setattr(Link, "command", command)
    (warning,) = restore(mongo.url(copy), streams)
    assert "did not confirm that a majority of its members has it on disk: waiting for replication" in warning
    assert asked == [{"w": "majority", "j": True, "wtimeout": 60_000}]
    assert content(mongo.client, copy) == content(mongo.client, name)


def test_interleaved_collections_are_restored(mongo: MongoServer) -> None:
    """An archive of mongodump, which reads several collections at once, goes back as well as ours."""
    from tests.engines.test_mongodb_archive import DOCUMENTS, interleaved  # noqa: PLC0415 -- tells where it comes from

    target = mongo.name()
    view = b'{"indexes": [], "collectionName": ""}'
    data = interleaved()
    assert view in data
    stream = Kept("shop", KIND, data, {})
    restore(mongo.url(target), [stream])
    assert [document["_id"] for document in mongo.client[target]["two"].find()] == list(range(20, 50))
    assert mongo.client[target]["one"].count_documents({}) == len(DOCUMENTS) - 30


def test_all_databases_of_a_server(mongo: MongoServer) -> None:
    """An address without a database is a stream per database, and any one of them can be restored elsewhere."""
    names = [mongo.name(), mongo.name()]
    for name in names:
        mongo.client[name]["things"].insert_one({"_id": name})
    streams = dump(mongo.url())
    assert set(names) <= {stream.name for stream in streams}
    assert not {"local", "config"} & {stream.name for stream in streams}
    (one,) = [stream for stream in streams if stream.name == names[1]]
    target = mongo.name()
    restore(mongo.url(target), [one])
    assert mongo.client[target]["things"].find_one() == {"_id": names[1]}
    with pytest.raises(UsageError, match="is one database"):
        restore(mongo.url(target), streams)


# Restoring


def test_an_index_that_cannot_be_built_fails_the_restore(mongo: MongoServer) -> None:
    """A restore that cannot give back a unique index is none: the target stays as it was, and no value is shown."""
    source, target = mongo.name(), mongo.name()
    mongo.client[source]["people"].insert_many([{"mail": "private@example.com"}, {"mail": "private@example.com"}])
    mongo.client[source]["people"].create_index("mail", name="mail")
    mongo.client[target]["kept"].insert_one({"_id": 1})
    (stream,) = dump(mongo.url(source, query="dump_with=driver"))
    before = content(mongo.client, target)
    plain = b'"name": "mail"'
    stream.data = _with_unique_index(stream.data, plain)
    with pytest.raises(RestoreFailedError, match=r"indexes of .*people cannot be built") as caught:
        restore(mongo.url(target), [stream], drop_existing=True)
    assert "private@example.com" not in f"{caught.value}{getattr(caught.value, '__notes__', '')}"
    assert content(mongo.client, target) == before
    assert mongo.client[target].list_collection_names() == ["kept"]


def test_a_swap_that_fails_in_its_middle_is_taken_back(mongo: MongoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever rename fails, what was there before is there again: options, indexes, views, functions, documents."""
    source, target = mongo.name(), mongo.name()
    build_everything(mongo.client, source)
    build_everything(mongo.client, target)
    mongo.client[target]["only here"].insert_one({"_id": 1})
    streams, before = dump(mongo.url(source)), content(mongo.client, target)
    real, failed = move.rename, []

    def failing(at: int) -> Callable[..., None]:
        calls = iter(range(1000))

        def rename(*given: Any, **named: Any) -> None:
            if next(calls) == at:
                failed.append(at)
                raise RestoreFailedError("refused by the test")
            real(*given, **named)

        return rename

    for at in (1, 12, 20):
        with monkeypatch.context() as patch:
            patch.setattr(move, "rename", failing(at))
            patch.setattr("dataguardian.engines.mongodb.swap.rename", move.rename)
            with pytest.raises(RestoreFailedError, match="refused by the test") as caught:
                restore(mongo.url(target), streams, drop_existing=True)
        assert not getattr(caught.value, "__notes__", [])
        assert content(mongo.client, target) == before
        assert not [name for name in mongo.client[target].list_collection_names() if "dataguardian" in name]
    assert failed == [1, 12, 20]


def test_what_an_interrupted_restore_left_is_told_and_not_dumped(mongo: MongoServer) -> None:
    """Leftovers of a killed restore are in nobody's way: no backup takes them, and the next restore names them."""
    source = mongo.name()
    mongo.client[source]["things"].insert_one({"_id": 1})
    mongo.client[source]["__dataguardian_new_0123abcd_7"].insert_one({"_id": 2})
    (stream,) = dump(mongo.url(source))
    assert [one["collection"] for one in Archive(stream.data).listed] == ["things"]
    target = mongo.name()
    mongo.client[target]["__dataguardian_new_0123abcd_7"].insert_one({"_id": 2})
    (warning,) = restore(mongo.url(target), [stream])
    assert "interrupted restore" in warning


def test_writes_of_mongodump_oplog_are_told(mongo: MongoServer) -> None:
    """The oplog of a mongodump --oplog is not replayed, and the restore says so."""
    from dataguardian.engines.mongodb import archive as format_  # noqa: PLC0415 -- only here

    oplog, things = format_.Namespace("", "oplog"), format_.Namespace("shop", "things")
    entry = bson.encode({"op": "i", "ts": Timestamp(1, 1)})
    prelude = format_.Prelude("8.2.11", "t", (format_.Listed(things), format_.Listed(oplog)))
    parts = [format_.encoded_prelude(prelude), format_.encoded_header(things), format_.encoded_end(things, 0)]
    parts += [format_.encoded_header(oplog), entry, format_.encoded_end(oplog, format_.crc64(entry))]
    warnings = restore(mongo.url(mongo.name()), [Kept("shop", KIND, b"".join(parts), {})])
    assert any("1 writes that mongodump --oplog saw" in warning for warning in warnings)


# A peer that the test server cannot be


def test_a_dump_is_of_one_moment() -> None:
    """Of a replica set every read asks for the moment that the first one was of; the server's documents pass undecoded,
    also dates that Python has no name for, and the archive is sound.
    """
    beyond = bson.encode({"_id": 1, "at": bson.DatetimeMS(2**62)})
    broken_text = beyond.replace(b"_id", b"\xff\xfed")
    documents = [beyond, broken_text] + [bson.encode({"_id": number}) for number in range(300)]
    with MongoPeer(documents) as peer:
        (stream,) = dump(peer.url())
        validate("mongodb", stream)
        assert Archive(stream.data).documents["shop", "things"] == documents
        (find,) = [command for command in peer.named("find") if command["find"] == "things"]
        assert find["readConcern"] == {"level": "snapshot"}
        assert find["hint"] == {"$natural": 1}
        assert [more["lsid"] for more in peer.named("getMore")] == [find["lsid"]]
    assert stream.warnings == []


def test_dates_beyond_the_year_9999_in_options() -> None:
    """A validator or a partial index may know dates that Python has no name for; they come back as they were."""
    far = {"at": {"$lt": bson.DatetimeMS(2**60)}}
    index = {"v": 2, "key": {"at": 1}, "name": "at", "partialFilterExpression": far}
    answers = {"listIndexes": lambda _: {"ok": 1.0, "cursor": {"id": 0, "ns": "shop.things", "firstBatch": [index]}}}
    with MongoPeer([bson.encode({"_id": 1})], answers=answers, info={"options": {"validator": far}}) as peer:
        (stream,) = dump(peer.url())
    metadata = Archive(stream.data).metadata("things")
    shown = {"at": {"$lt": {"$date": {"$numberLong": str(2**60)}}}}
    assert metadata["options"]["validator"] == shown
    assert metadata["indexes"][0]["partialFilterExpression"] == shown
    answers = {
        "listCollections": lambda _: {"ok": 1.0, "cursor": {"id": 0, "ns": "shop.x", "firstBatch": []}},
        "insert": lambda _: {"ok": 1.0, "n": 1},
    }
    with MongoPeer(answers=answers) as target:
        restore(target.url(), [stream])
        assert target.named("create")[0]["validator"] == far
        assert target.named("createIndexes")[0]["indexes"][0]["partialFilterExpression"] == far


def test_the_second_collection_is_read_at_the_moment_of_the_first() -> None:
    """Two streams of one server share their moment."""
    with MongoPeer([bson.encode({"_id": 1})], answers={}) as peer:
        link_address = peer.url()
        server = Server(config_of(link_address))
        from dataguardian.engines.mongodb.archive import Namespace  # noqa: PLC0415 -- only here
        from dataguardian.engines.mongodb.batches import Moment  # noqa: PLC0415 -- only here

        with server.connect() as link:
            moment = Moment()
            for _ in range(2):
                assert list(link.raw_batches(Namespace("shop", "things"), None, moment)) == [bson.encode({"_id": 1})]
        first, second = (find["readConcern"] for find in peer.named("find"))
    assert first == {"level": "snapshot"}
    assert second == {"level": "snapshot", "atClusterTime": Timestamp(1700000000, 7)}


def test_a_standalone_server_cannot_promise_a_moment() -> None:
    """There are no snapshots, and the backup says what that means."""
    with MongoPeer([bson.encode({"_id": 1})], replica_set=False) as peer:
        (stream,) = dump(peer.url())
        assert "readConcern" not in peer.named("find")[-1]
    assert any("no replica set" in warning for warning in stream.warnings)


def test_a_snapshot_that_is_too_old_fails_the_dump_and_says_what_to_do() -> None:
    """A dump that takes longer than the server keeps its history is not one moment, so it is none."""
    refusal = {
        "ok": 0.0,
        "code": 239,
        "codeName": "SnapshotTooOld",
        "errmsg": "Read timestamp is older than the oldest",
    }
    with (
        MongoPeer([bson.encode({"_id": n}) for n in range(500)], answers={"getMore": lambda _: refusal}) as peer,
        pytest.raises(DumpFailedError, match="older than the oldest") as caught,
    ):
        dump(peer.url())
    assert "minSnapshotHistoryWindowInSeconds" in caught.value.hint


def test_a_collection_that_has_no_snapshot_is_read_without() -> None:
    """Capped collections of older servers refuse; the backup has them, and says that they are of a later moment."""
    seen: list[dict[str, Any]] = []

    def find(command: dict[str, Any]) -> dict[str, Any]:
        seen.append(command)
        if "readConcern" in command:
            return {"ok": 0.0, "code": 246, "errmsg": "Unable to read from a snapshot"}
        documents = [{"_id": 1}] if command["find"] == "things" else []
        return {"cursor": {"id": 0, "ns": "shop.things", "firstBatch": documents}, "ok": 1.0}

    with MongoPeer(answers={"find": find}) as peer:
        (stream,) = dump(peer.url())
    assert Archive(stream.data).documents["shop", "things"] == [bson.encode({"_id": 1})]
    assert any("a little later" in warning for warning in stream.warnings)


def test_a_connection_that_breaks_in_a_batch() -> None:
    """The dump fails as unreachable, which the queue tries again."""
    with (
        MongoPeer([bson.encode({"_id": n}) for n in range(500)], answers={"getMore": lambda _: None}) as peer,
        pytest.raises(UnreachableError),
    ):
        dump(peer.url())


def test_empty_timestamps_on_old_servers_are_given_back() -> None:
    """A server that puts the time into empty timestamps is told the document once more, literally."""
    document = {"_id": 5, "at": Timestamp(0, 0)}
    archived = MongoPeer([bson.encode(document), bson.encode({"_id": 6})], version="4.4.1")
    with archived:
        (stream,) = dump(archived.url())
    answers = {
        "insert": lambda command: {"ok": 1.0, "n": 2},
        "listCollections": lambda _: {"ok": 1.0, "cursor": {"id": 0, "ns": "shop.x", "firstBatch": []}},
    }
    with MongoPeer(version="4.4.1", answers=answers) as target:
        restore(target.url(), [stream])
        (update,) = target.named("update")
        assert "bypassEmptyTsReplacement" not in target.named("insert")[0]
    assert update["$db"] == "shop"


# mongodump

FAKE = """#!{python}
import json, os, sys
if "--version" in sys.argv:
    print("mongodump version: {version}\\ngit version: 7ea530946fa7880364d8"); raise SystemExit
config = next(a for a in sys.argv if a.startswith("--config="))[9:]
mode = oct(os.stat(config).st_mode & 0o777)
json.dump({{"argv": sys.argv, "config": open(config).read(), "mode": mode, "path": config}}, open({log!r}, "w"))
data = open({data!r}, "rb").read()
sys.stdout.buffer.write(data[:{cut}])
sys.stderr.write("2026-01-01T00:00:00.000+0000\\twriting shop.things to archive on stdout\\n" * 50)
sys.stderr.write("Failed: cannot reach mongodb://me:{secret}@127.0.0.1 for {secret}\\n")
raise SystemExit({code})
"""


@pytest.fixture
def fake_mongodump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a program on PATH that does what mongodump does, from outside: an archive, an exit code, a message."""

    def install(
        data: bytes, *, code: int = 0, cut: int | None = None, secret: str = "", version: str = "100.9.4"
    ) -> Path:
        archive, log = tmp_path / "archive", tmp_path / "log.json"
        archive.write_bytes(data)
        program = tmp_path / "bin" / "mongodump"
        program.parent.mkdir(exist_ok=True)
        values = {
            "python": sys.executable,
            "log": str(log),
            "data": str(archive),
            "cut": cut,
            "code": code,
            "version": version,
        }
        program.write_text(FAKE.format(secret=secret, **values), encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return log

    return install


def test_mongodump_is_used_where_it_is(mongo: MongoServer, fake_mongodump: Callable[..., Path]) -> None:
    """Its archive is the stream, the manifest names it, and address and password reach it by a file that only we can
    read and that is gone afterwards.
    """
    name = mongo.name()
    mongo.client[name]["things"].insert_many([{"_id": number} for number in range(50)])
    (ours,) = dump(mongo.url(name, query="dump_with=driver"))
    log = fake_mongodump(ours.data)
    (stream,) = dump(mongo.url(name))
    assert stream.data == ours.data
    said = json.loads(log.read_text())
    assert said["argv"][1:] == [
        f"--config={said['path']}", "--archive", f"--db={name}", "--excludeCollectionsWithPrefix=__dataguardian_",
    ]  # fmt: skip
    assert said["config"].startswith('uri: "mongodb://127.0.0.1:')
    assert said["mode"] == oct(stat.S_IRUSR | stat.S_IWUSR)
    assert not Path(said["path"]).exists()
    assert any("dump_with=driver" in warning for warning in stream.warnings)
    engine = engine_at(mongo.url(name))
    with next(iter(engine.dump(DumpOptions()))):
        pass
    assert [(tool.name, tool.version) for tool in engine.tools] == [("mongodump", "100.9.4")]


@pytest.mark.parametrize(("code", "cut", "said"), [(1, None, "exit code 1"), (0, 500, "cannot be read")])
def test_a_mongodump_that_fails(
    mongo: MongoServer, fake_mongodump: Callable[..., Path], code: int, cut: int | None, said: str
) -> None:
    """An exit code other than 0, whatever was written, and an archive that is not whole, whatever the exit code."""
    name = mongo.name()
    mongo.client[name]["things"].insert_many([{"_id": number} for number in range(50)])
    (ours,) = dump(mongo.url(name, query="dump_with=driver"))
    fake_mongodump(ours.data, code=code, cut=cut)
    with pytest.raises(DumpFailedError, match=said):
        dump(mongo.url(name))


def test_what_mongodump_says_is_repeated_without_the_password(
    fake_mongodump: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that prints its own address does not print it into our log."""
    monkeypatch.setenv("DATAGUARDIAN_PASSWORD", SECRET)
    with MongoPeer() as peer:
        fake_mongodump(b"", code=1, secret=SECRET)
        from dataguardian.engines.mongodb.archive import Prelude  # noqa: PLC0415 -- only here
        from dataguardian.engines.mongodb.dump import Content  # noqa: PLC0415 -- only here
        from dataguardian.engines.mongodb.native import MongodumpDump  # noqa: PLC0415 -- only here
        from dataguardian.engines.mongodb.tools import needed_mongodump  # noqa: PLC0415 -- only here

        with Server(config_of(peer.url())).connect() as link:
            address = uri(f"mongodb://me@127.0.0.1:{peer.port}/shop")
            content_ = Content(Prelude("7.0.0", ""), users=False)
            with MongodumpDump(link, address, "shop", needed_mongodump(), content_) as stream:
                while stream.readinto(memoryview(bytearray(1000))):
                    pass
                with pytest.raises(DumpFailedError) as caught:
                    stream.finish()
    assert "cannot reach" in caught.value.message
    assert "writing shop.things" not in caught.value.message
    assert SECRET not in caught.value.message


def test_an_address_is_told_once() -> None:
    """The driver begins with the address, and so do we."""
    with (
        MongoPeer(answers={"find": lambda _: None}) as peer,
        pytest.raises(UnreachableError, match=f"127.0.0.1:{peer.port}: connection closed") as caught,
    ):
        dump(peer.url())
    assert caught.value.message.count("127.0.0.1") == 1


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_file_for_a_child_is_private_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A child reads it, nobody else may, and nothing is on the disk where the kernel can do without."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if place == "disk":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    with private_file("a name", b"secret") as path:
        assert subprocess.run(["cat", path], capture_output=True, check=True).stdout == b"secret"
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) & 0o077 == 0
        on_disk = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert on_disk == ([Path(path)] if place == "disk" else [])
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("version", ["100.9.0", "100.9", "100.3.1", "r4.2.25", "3.6.3"])
def test_a_mongodump_that_is_too_old_is_not_used(
    mongo: MongoServer, fake_mongodump: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """It mixes up the fields of views, and the oldest show a password in their command line: the driver dumps."""
    name = mongo.name()
    mongo.client[name]["things"].insert_one({})
    monkeypatch.setenv("PATH", str(fake_mongodump(b"", version=version).parent / "bin"))
    (stream,) = dump(mongo.url(name))
    assert stream.metadata["dumped_with"] == "driver"
    with pytest.raises(MissingToolError, match=r"mongodump is older than 100\.9\.1"):
        dump(mongo.url(name, query="dump_with=mongodump"))
    assert tools.client_programs()[0].path is None


def test_mongodump_is_missing_when_it_was_asked_for(mongo: MongoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """dump_with=mongodump is not answered with something else."""
    name = mongo.name()
    mongo.client[name]["things"].insert_one({})
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingToolError) as caught:
        dump(mongo.url(name, query="dump_with=mongodump"))
    assert "mongodb-database-tools" in caught.value.hint


# Refusals


def test_time_series_in_the_target_are_told_before_anything_happens() -> None:
    """MongoDB cannot rename a time series, so it cannot be replaced at one stroke: that is said first."""
    with (
        MongoPeer(info={"type": "timeseries", "options": {"timeseries": {"timeField": "t"}}}) as peer,
        pytest.raises(NotAllowedError, match="time series"),
    ):
        engine_at(peer.url()).prepare_restore([("shop", KIND)], RestoreOptions(drop_existing=True))


def test_a_login_that_no_server_can_take(mongo: MongoServer) -> None:
    """An emoji is no character of a MongoDB password; that is an answer, not a stack trace."""
    address = mongo.url("x").replace("mongodb://", "mongodb://me:%F0%9F%90%98@")
    assert engine_at(address).check().status == "auth_failed"
    with pytest.raises(AuthenticationError):
        dump(address)


def _with_unique_index(data: bytes, name: bytes) -> bytes:
    """Returns the archive with that index made unique; lengths of the prelude's documents are kept by its options."""
    import re  # noqa: PLC0415 -- only here

    place = data.index(name)
    start = data.rindex(b'{"indexes"', 0, place)
    end = data.index(b"\0", place)
    text = data[start:end]
    unique = re.sub(rb', "name": "mail"', b', "name": "mail", "unique": true', text)
    grown = len(unique) - len(text)
    string = start - 4
    document = data.rindex(b"\x02db\0", 0, start) - 4
    changed = bytearray(data)
    changed[start:end] = unique
    for position in (string, document):
        size = int.from_bytes(data[position : position + 4], "little") + grown
        changed[position : position + 4] = size.to_bytes(4, "little")
    return bytes(changed)


def test_users_are_merged_by_the_server() -> None:
    """Users of the database go where mongorestore puts them, those that exist are left out, nothing is dropped."""
    from dataguardian.engines.mongodb import archive as format_  # noqa: PLC0415 -- only here

    name = format_.Namespace("shop", "$admin.system.users")
    users = [bson.encode({"_id": f"shop.{user}", "user": user, "db": "shop"}) for user in ("old", "new")]
    end = format_.encoded_end(name, format_.crc64(b"".join(users)))
    prelude = format_.encoded_prelude(format_.Prelude("7.0.14", "t", (format_.Listed(name),)))
    stream = Kept("shop", KIND, b"".join([prelude, format_.encoded_header(name), *users, end]), {})

    def find(command: dict[str, Any]) -> dict[str, Any]:
        known = [{"_id": "shop.old"}] if command["find"] == "system.users" else []
        return {"ok": 1.0, "cursor": {"id": 0, "ns": "admin.system.users", "firstBatch": known}}

    answers = {
        "find": find,
        "insert": lambda command: {"ok": 1.0, "n": 1},
        "listCollections": lambda _: {"ok": 1.0, "cursor": {"id": 0, "ns": "shop.x", "firstBatch": []}},
    }
    with MongoPeer(answers=answers) as peer:
        warnings = restore(peer.url(), [stream])
        (merge,) = peer.named("_mergeAuthzCollections")
        (insert,) = peer.named("insert")
        dropped = peer.named("drop")
    assert merge["tempUsersCollection"] == f"admin.{insert['insert']}"
    assert (merge["db"], merge["drop"], merge["$db"]) == ("shop", False, "admin")
    assert [command["drop"] for command in dropped] == [insert["insert"]]
    assert warnings == ["1 users and roles of shop exist, and stayed as they are"]


def test_a_time_series_of_mixed_types() -> None:
    """Buckets that an older server filled are taken by a newer one when it is told; what it took before is not sent
    again, and a server that still refuses fails the restore.
    """
    from dataguardian.engines.mongodb import archive as format_  # noqa: PLC0415 -- only here

    text = '{"options": {"timeseries": {"timeField": "t"}}, "indexes": [], "collectionName": "series"}'
    listed = format_.Listed(format_.Namespace("shop", "series"), text, "timeseries")
    prelude = format_.Prelude("7.0.14", "t", (listed,))
    name, buckets = prelude.data_name(listed), [bson.encode({"_id": number}) for number in range(3)]
    parts = [format_.encoded_prelude(prelude), format_.encoded_header(name), *buckets]
    data = b"".join([*parts, format_.encoded_end(name, format_.crc64(b"".join(buckets)))])
    refusal = {"ok": 1.0, "n": 1, "writeErrors": [{"index": 1, "code": 408, "errmsg": "mixed schema data"}]}
    taken = {"ok": 1.0, "n": 2}
    replies = [refusal, taken, refusal, refusal]
    answers = {
        "insert": lambda command: replies.pop(0) if command["insert"] == str(name.collection) else {"ok": 1.0, "n": 1},
        "listCollections": lambda _: {"ok": 1.0, "cursor": {"id": 0, "ns": "shop.x", "firstBatch": []}},
    }
    with MongoPeer(answers=answers) as peer:
        restore(peer.url(), [Kept("shop", KIND, data, {})])
        sent = [one["documents"] for one in peer.named("insert") if one["insert"] == name.collection]
        assert [[document["_id"] for document in documents] for documents in sent] == [[0, 1, 2], [1, 2]]
        (change,) = peer.named("collMod")
        assert (change["collMod"], change["timeseriesBucketsMayHaveMixedSchemaData"]) == ("series", True)
        with pytest.raises(RestoreFailedError, match="mixed schema"):
            restore(peer.url(), [Kept("shop", KIND, data, {})])
    assert not replies


def test_a_time_series_does_not_touch_what_has_its_name(mongo: MongoServer) -> None:
    """It has to be made in place, so a collection of that name stops the restore, and stays."""
    from dataguardian.engines.mongodb import archive as format_  # noqa: PLC0415 -- only here

    listed = format_.Listed(
        format_.Namespace("shop", "series"),
        '{"options": {"timeseries": {"timeField": "t"}}, "indexes": [], "collectionName": "series"}',
        "timeseries",
    )
    prelude = format_.Prelude("7.0.14", "t", (listed,))
    name = prelude.data_name(listed)
    data = format_.encoded_prelude(prelude) + format_.encoded_header(name) + format_.encoded_end(name, 0)
    target = mongo.name()
    mongo.client[target]["series"].insert_one({"_id": 1})
    with pytest.raises(NotAllowedError, match="time series in the backup"):
        restore(mongo.url(target), [Kept("shop", KIND, data, {})], drop_existing=True)
    assert list(mongo.client[target]["series"].find()) == [{"_id": 1}]
