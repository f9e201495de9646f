"""Backblaze: configurations, sessions, versions, and a second client of another house."""

from __future__ import annotations

import os
import random
import subprocess

import pytest

from dataguardian.core.backup import run_backup
from dataguardian.core.verify import run_verify
from dataguardian.domain.errors import StorageDeniedError, StorageError, StorageFullError, UsageError
from dataguardian.domain.urls import parse_url
from dataguardian.storage.backblaze import BackblazeConfig
from dataguardian.storage.backblaze.objects import BackblazeStorage
from dataguardian.storage.registry import build_storage, storage_config
from dataguardian.storage.retrying import RetryingStorage
from tests.core.bytes_engine import BytesEngine, BytesStream, plan
from tests.storage.conformance import listed
from tests.storage.fixture_backblaze import PREFIX, B2Server, b2
from tests.storage.front import Asked, HttpFront, Nth, Reply, Sometimes
from tests.storage.peers import shared
from tests.storage.processes import program

BUSY = Reply(503, b'{"status": 503, "code": "service_unavailable", "message": "no tomes available"}')
EXPIRED = Reply(401, b'{"status": 401, "code": "expired_auth_token", "message": "Authorization token has expired"}')
CAPPED = Reply(403, b'{"status": 403, "code": "storage_cap_exceeded", "message": "Cannot upload, cap exceeded."}')


@pytest.fixture
def server() -> B2Server:
    return shared(b2)


def uploading(asked: Asked) -> bool:
    return asked.path.startswith("/upload/")


def opened(server: B2Server, bucket: str, **more: object) -> BackblazeStorage:
    storage = build_storage(server.config(bucket, **more))
    assert isinstance(storage, BackblazeStorage)
    return storage


def test_an_address_becomes_a_configuration() -> None:
    """The key is the user and the password; what is shown again holds neither."""
    config = storage_config(parse_url("b2://key-id:se%2Fcret@my-bucket/a/b?timeout_seconds=5"))
    assert isinstance(config, BackblazeConfig)
    assert (config.bucket_name, config.prefix, config.application_key_id) == ("my-bucket", "a/b", "key-id")
    assert config.application_key is not None
    assert config.application_key.get_secret_value() == "se/cret"
    assert config.describe() == "b2://my-bucket/a/b"
    by_id = storage_config(parse_url("b2:///a?bucket_id=4a48fe"))
    assert storage_config(parse_url(by_id.describe())) == by_id


@pytest.mark.parametrize(
    "text", ["b2:///a", "b2://bucket?colour=red", "b2://bucket?application_key_id=x", "b2://bucket/a/../b", "b2://b_b"]
)
def test_an_address_that_is_not_understood_is_refused(text: str) -> None:
    """Wrong usage is told before anything is sent."""
    with pytest.raises(UsageError):
        storage_config(parse_url(text))


def test_a_key_is_needed(server: B2Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from the configuration or the environment, under the names of Backblaze's own program."""
    bucket = server.bucket()
    storage = opened(server, bucket, application_key_id=None, application_key=None)
    monkeypatch.delenv("B2_APPLICATION_KEY_ID", raising=False)
    with pytest.raises(StorageDeniedError) as caught:
        storage.check()
    assert "B2_APPLICATION_KEY_ID" in caught.value.hint
    monkeypatch.setenv("B2_APPLICATION_KEY_ID", server.owner[0])
    monkeypatch.setenv("B2_APPLICATION_KEY", server.owner[1])
    storage.check()


def test_a_token_that_ran_out_is_renewed(server: B2Server) -> None:
    """A session lasts a day and a backup may last longer: the call is made again with a new token."""
    bucket = server.bucket()
    faults = [
        Nth(EXPIRED, when=lambda asked: asked.method == "GET"),
        Nth(EXPIRED, when=lambda asked: "list_file_names" in asked.path),
        Nth(EXPIRED, when=uploading, nth=2),
    ]
    with HttpFront(server.port, *faults) as front:
        storage = RetryingStorage(
            opened(server, bucket, endpoint=f"http://127.0.0.1:{front.port}"), sleep=lambda _seconds: None
        )
        storage.put("a", b"x")
        storage.put("b", b"y")
        assert storage.get("a", 1) == b"x"
        assert listed(storage) == {"a": 1, "b": 1}
        front.assert_all_fired()


def test_a_cap_is_a_full_storage(server: B2Server) -> None:
    """It is not tried again, and the hint says what to raise."""
    with HttpFront(server.port, Nth(CAPPED, when=uploading)) as front:
        storage = opened(server, server.bucket(), endpoint=f"http://127.0.0.1:{front.port}")
        with pytest.raises(StorageFullError, match="cap") as caught:
            storage.put("a", b"x")
        front.assert_all_fired()
    assert "cap" in caught.value.hint


def test_no_version_is_left_behind(server: B2Server) -> None:
    """What was put three times is deleted three times over; a neighbour whose name begins alike stays."""
    storage = opened(server, server.bucket())
    for content in (b"1", b"2", b"3"):
        storage.put("a", content)
    storage.put("a.zst", b"x")
    assert len([*storage._versions(f"{PREFIX}/a")]) == 3
    storage.delete("a")
    assert [*storage._versions(f"{PREFIX}/a")] == []
    assert listed(storage) == {"a.zst": 1}


def test_what_is_acknowledged_and_forgotten_is_found(server: B2Server) -> None:
    """An answer that does not tell the size and SHA-1 that were sent is no success."""
    with HttpFront(server.port, Nth(Reply(200, b"{}"), when=uploading)) as front:
        storage = opened(server, server.bucket(), endpoint=f"http://127.0.0.1:{front.port}")
        with pytest.raises(StorageError):
            storage.put("a", b"x")
        front.assert_all_fired()
    assert listed(storage) == {}


def test_backups_while_one_request_in_twenty_fails(server: B2Server) -> None:
    """Each is either good, which is verified, or failed with nothing left behind."""
    bucket = server.bucket()
    direct = opened(server, bucket)
    good = set()
    with HttpFront(server.port, Sometimes(BUSY, share=0.05, seed=7)) as front:
        for number in range(10):
            engine = BytesEngine(BytesStream("x", random.Random(number).randbytes(150_000)))
            through = opened(server, bucket, endpoint=f"http://127.0.0.1:{front.port}")
            storage = RetryingStorage(through, sleep=lambda _seconds: None)
            before = listed(direct)
            try:
                good.add(run_backup(plan(execution_id=f"run-{number}"), engine, storage).directory)
            except StorageError:
                assert listed(direct) == before
        front.assert_all_fired()
    assert good
    assert all(run_verify(direct, directory).ok for directory in good)


def test_rclone_reads_what_we_wrote(server: B2Server) -> None:
    """A client of another house lists and reads our objects, whatever their names."""
    bucket = server.bucket()
    storage = opened(server, bucket)
    contents = {"a b/c+d%41.zst": b"first", "ünï/日本": b"second"}
    for path, content in contents.items():
        storage.put(path, content)
    key_id, key = server.owner
    settings = {"TYPE": "b2", "ACCOUNT": key_id, "KEY": key, "ENDPOINT": f"http://127.0.0.1:{server.port}"}
    env = {**os.environ, **{f"RCLONE_CONFIG_PEER_{name}": value for name, value in settings.items()}}

    def rclone(*arguments: str) -> bytes:
        return subprocess.run(
            [program("rclone"), "--config", "/dev/null", *arguments],
            env=env,
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout

    listing = rclone("lsf", "-R", "--files-only", f"peer:{bucket}/{PREFIX}").decode()
    assert sorted(listing.splitlines()) == sorted(contents)
    for path, content in contents.items():
        assert rclone("cat", f"peer:{bucket}/{PREFIX}/{path}") == content
