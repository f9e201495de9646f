"""S3: configurations, what its services answer, and whole backups while the service misbehaves."""

from __future__ import annotations

import base64
import hashlib
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataguardian.core.backup import run_backup
from dataguardian.core.catalog import list_backups
from dataguardian.core.verify import run_verify
from dataguardian.domain.errors import (
    DataGuardianError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageTransientError,
    StorageUnreachableError,
    UsageError,
)
from dataguardian.domain.urls import parse_url
from dataguardian.storage.base import Storage
from dataguardian.storage.minio import MinioConfig
from dataguardian.storage.registry import build_storage, storage_config
from dataguardian.storage.retrying import RetryingStorage
from dataguardian.storage.s3 import S3Config
from dataguardian.storage.s3.objects import S3Storage
from dataguardian.storage.s3.wire import Request
from tests.core.bytes_engine import BytesEngine, BytesStream, plan
from tests.storage.conformance import listed
from tests.storage.front import Asked, HttpFront, Nth, Reply, Sometimes
from tests.storage.peers import shared
from tests.storage.s3_servers import MotoServer, RcloneServer, S3Server, moto_s3, rclone_s3

SLOW_DOWN = Reply(503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")


@pytest.fixture
def moto() -> MotoServer:
    return shared(moto_s3)


@pytest.fixture
def rclone() -> RcloneServer:
    return shared(rclone_s3)


def s3(server: S3Server, bucket: str, **more: object) -> S3Storage:
    storage = build_storage(server.config(bucket, **more))
    assert isinstance(storage, S3Storage)
    return storage


@pytest.mark.parametrize("peer", [moto_s3, rclone_s3])
def test_a_hash_that_was_handed_over_is_sent_as_it_is(
    peer: Callable[[], AbstractContextManager[S3Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the signature and in the checksum's header, and the bytes are not hashed again.

    Amazon and MinIO compare it with what arrives; neither of these peers does.
    """
    server = shared(peer)
    storage = s3(server, server.bucket())
    sent: list[Request] = []
    passed_on = storage._wire.request
    monkeypatch.setattr(storage._wire, "request", lambda request: sent.append(request) or passed_on(request))
    monkeypatch.setattr("dataguardian.storage.s3.objects.hashlib", None)
    told = hashlib.sha256(b"content")
    storage.put_hashed("a", b"content", told.hexdigest())
    assert sent[0].sha256 == told.hexdigest()
    assert sent[0].headers["x-amz-checksum-sha256"] == base64.b64encode(told.digest()).decode()
    assert storage.get("a", 7) == b"content"


def behind(server: MotoServer | RcloneServer, front: HttpFront, bucket: str) -> Storage:
    """Returns the storage as reached through a front, with retries that do not wait."""
    storage = s3(server, bucket, endpoint=f"http://127.0.0.1:{front.port}", timeout_seconds=10)
    return RetryingStorage(storage, sleep=lambda _seconds: None)


def headers_of(storage: S3Storage, path: str) -> dict[str, str]:
    answer = storage._wire.request(Request(method="HEAD", key=path, headers=storage._options.key))
    return {name.lower(): value for name, value in answer.headers.items()}


@contextmanager
def answering(status: int, body: bytes, content_type: str = "text/html") -> Iterator[int]:
    """Yields the port of a web server that has this one answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815 -- the base's names

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def at_port(port: int) -> Storage:
    text = f"s3://key:secret-word@bucket?endpoint=http://127.0.0.1:{port}&timeout_seconds=5"
    return build_storage(storage_config(parse_url(text)))


def test_an_address_becomes_a_configuration() -> None:
    """Keys are the user and the password, options the query; what is shown again holds no key."""
    text = "s3://AKIA:se%2Fcret@my.bucket/a/b%20c?endpoint=https://s3.example.org:8443&region=eu-west-1&path_style=true"
    config = storage_config(parse_url(text + "&storage_class=STANDARD_IA&verify=false&server_side_encryption=aws:kms"))
    assert isinstance(config, S3Config)
    assert (config.bucket, config.prefix, config.region) == ("my.bucket", "a/b c", "eu-west-1")
    assert config.secret_access_key is not None
    assert config.secret_access_key.get_secret_value() == "se/cret"
    assert config.describe() == "s3://my.bucket/a/b%20c?endpoint=https%3A//s3.example.org%3A8443"
    again = storage_config(parse_url(config.describe()))
    assert isinstance(again, S3Config)
    assert (again.bucket, again.prefix, again.endpoint) == (config.bucket, config.prefix, config.endpoint)


def test_a_minio_address_becomes_a_configuration() -> None:
    """Host, bucket and prefix are in the path, as MinIO's own client writes them."""
    config = storage_config(parse_url("minio://me:secret@nas.local:9000/backups/db?use_ssl=false"))
    assert isinstance(config, MinioConfig)
    assert (config.endpoint, config.bucket, config.prefix, config.use_ssl) == ("nas.local:9000", "backups", "db", False)
    assert config.describe() == "minio://nas.local:9000/backups/db?use_ssl=false"
    assert (
        MinioConfig(endpoint="https://nas.local:9000", bucket="backups").describe() == "minio://nas.local:9000/backups"
    )


@pytest.mark.parametrize(
    "text",
    [
        "s3:///no-bucket",
        "s3://bucket?endpoint=s3.example.org",
        "s3://bucket?endpoint=https://x/path",
        "s3://bucket?colour=red",
        "s3://bucket?access_key_id=only",
        "s3://bucket?object_lock_mode=GOVERNANCE",
        "s3://bucket?object_lock_mode=soft&object_lock_retain_days=1",
        "s3://bucket?storage_class=A%0D%0AX-Evil:1",
        "s3://bucket?kms_key_id=x",
        "s3://bucket?sse_customer_key=c2hvcnQ=",
        "s3://bucket/a/../b",
        "s3://bucket?timeout_seconds=0",
        "minio://host:9000",
        "minio:///bucket",
        "minio://host:9000/bucket?use_ssl=maybe",
    ],
)
def test_an_address_that_is_not_understood_is_refused(text: str) -> None:
    """Wrong usage is told before anything is sent."""
    with pytest.raises(UsageError):
        storage_config(parse_url(text))


def test_secrets_are_not_repeated(moto: MotoServer) -> None:
    """Neither the configuration nor an error of the service shows a secret."""
    storage = at_port(moto.port)
    with pytest.raises(StorageDeniedError) as caught:
        storage.put("a", b"x")
    config = storage_config(parse_url("s3://key:secret-word@bucket?sse_customer_key=" + "A" * 43 + "="))
    shown = f"{caught.value} {caught.value.hint} {caught.value.as_json()} {config!r} {config.describe()} {storage!r}"
    assert "secret-word" not in shown
    assert "A" * 43 not in shown


def test_the_usual_chain_is_asked_without_keys(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A profile of ~/.aws is as good as keys in the configuration; without any the hint says what to do."""
    bucket = moto.bucket()
    bare = {"access_key_id": None, "secret_access_key": None, "region": None}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with pytest.raises(StorageDeniedError) as caught:
        s3(moto, bucket, **bare).check()
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    key, secret = moto.owner
    file.write_text(f"[backups]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    s3(moto, bucket, **bare, profile="backups").check()
    with pytest.raises(StorageDeniedError):
        s3(moto, bucket, **bare, profile="nobody").check()


def test_the_services_own_checksum_is_returned(moto: MotoServer) -> None:
    """Where the service keeps a SHA-256, `stat` has it; it is the content's, whatever the ETag says."""
    storage = s3(moto, moto.bucket())
    storage.put("a", b"content")
    assert storage.stat("a").sha256 == hashlib.sha256(b"content").hexdigest()


def test_class_encryption_and_lock_reach_the_service(moto: MotoServer) -> None:
    """Every object is stored as the configuration asks, the probe of `check` unlocked; what is locked stays."""
    bucket = moto.bucket()
    plain = s3(moto, bucket)
    rule = b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
    versioned = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    for query, body in (("versioning", versioned), ("object-lock", rule)):
        sha256 = hashlib.sha256(body).hexdigest()
        plain._wire.request(Request(method="PUT", query={query: ""}, body=body, sha256=sha256))
    storage = s3(
        moto,
        bucket,
        storage_class="STANDARD_IA",
        server_side_encryption="aws:kms",
        kms_key_id="key-1",
        object_lock_mode="COMPLIANCE",
        object_lock_retain_days=3,
    )
    storage.put("a/b", b"x")
    headers = headers_of(storage, "a/b")
    assert headers["x-amz-storage-class"] == "STANDARD_IA"
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-object-lock-mode"] == "COMPLIANCE"
    storage.check()
    storage.delete("a/b")
    assert listed(storage) == {}


def test_a_customers_own_key_is_needed_to_read(moto: MotoServer) -> None:
    """SSE-C: with the key everything works, and the key never shows."""
    key = base64.b64encode(bytes(range(32))).decode()
    storage = s3(moto, moto.bucket(), sse_customer_key=key)
    storage.put("a", b"x")
    assert storage.get("a", 1) == b"x"
    assert storage.stat("a").size_bytes == 1
    assert key not in repr(storage._options)


def test_a_bucket_in_another_region_is_found(moto: MotoServer) -> None:
    """Without a region the service's own answer is followed, once; a wrong one is named in the hint."""
    elsewhere = Reply(301, b"<Error><Code>PermanentRedirect</Code></Error>", (("x-amz-bucket-region", "eu-south-9"),))
    bucket = moto.bucket()
    with HttpFront(moto.port, Nth(elsewhere)) as front:
        endpoint = f"http://127.0.0.1:{front.port}"
        s3(moto, bucket, endpoint=endpoint, region=None).put("a", b"x")
        front.assert_all_fired()
    with HttpFront(moto.port, Nth(elsewhere)) as front, pytest.raises(StorageDeniedError) as caught:
        s3(moto, bucket, endpoint=f"http://127.0.0.1:{front.port}").put("a", b"x")
    assert "region=eu-south-9" in caught.value.hint


def test_what_sends_much_more_than_was_asked_for_does_not_speak_s3(moto: MotoServer) -> None:
    """A web server whose every address is a long page, or one that wants to fill our memory: an error with a hint."""
    bucket, page = moto.bucket(), Reply(200, b"<html>" * 3_000_000)
    for use in (lambda storage: storage.put("a", b"x"), lambda storage: list(storage.list())):
        with HttpFront(moto.port, Nth(page)) as front, pytest.raises(StorageUnreachableError) as caught:
            use(s3(moto, bucket, endpoint=f"http://127.0.0.1:{front.port}"))
        assert "endpoint" in caught.value.hint


def test_tls_is_verified(tmp_path: Path) -> None:
    """Large parts go through TLS both ways, again and again on one connection; an unknown authority is refused, and
    `ca_file` makes it known.
    """
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with rclone_s3("--cert", str(certificate), "--key", str(key)) as server:
        (server.folder / "bucket").mkdir()
        endpoint = f"https://127.0.0.1:{server.port}"
        storage = s3(server, "bucket", endpoint=endpoint, ca_file=str(certificate))
        content = random.Random(1).randbytes(3_000_000)
        for number in range(4):
            storage.put(f"a/{number}", content)
            assert storage.get(f"a/{number}", len(content)) == content
        assert len(storage._wire._peer._idle) == 1
        s3(server, "bucket", endpoint=endpoint, verify=False).check()
        with pytest.raises(StorageUnreachableError, match="not trusted") as caught:
            s3(server, "bucket", endpoint=endpoint).check()
        assert "ca_file" in caught.value.hint
        with pytest.raises(StorageUnreachableError, match="ca_file"):
            s3(server, "bucket", endpoint=endpoint, ca_file=str(tmp_path / "none")).check()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (503, "SlowDown", StorageTransientError),
        (500, "InternalError", StorageTransientError),
        (429, "TooManyRequests", StorageTransientError),
        (400, "RequestTimeout", StorageTransientError),
        (400, "BadDigest", StorageTransientError),
        (502, "", StorageTransientError),
        (507, "XMinioStorageFull", StorageFullError),
        (400, "XMinioAdminBucketQuotaExceeded", StorageFullError),
        (403, "QuotaExceeded", StorageFullError),
        (403, "AccessDenied", StorageDeniedError),
        (403, "RequestTimeTooSkewed", StorageDeniedError),
        (400, "ExpiredToken", StorageDeniedError),
        (403, "InvalidObjectState", StorageDeniedError),
        (501, "NotImplemented", StorageDeniedError),
        (404, "NoSuchBucket", StorageUnreachableError),
        (400, "KeyTooLongError", UsageError),
    ],
)
def test_answers_have_their_class(status: int, code: str, error: type[DataGuardianError]) -> None:
    """Busy, full, forbidden and missing are told apart by what the service says, and each has a hint."""
    body = f'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>{code}</Code></Error>'.encode()
    with answering(status, body) as port, pytest.raises(DataGuardianError) as caught:
        at_port(port).put("a", b"x")
    assert isinstance(caught.value, error)
    assert caught.value.hint


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>It works!</html>"), (404, b"not here"), (200, b"{}")])
def test_a_web_server_is_no_storage(status: int, body: bytes) -> None:
    """A wrong endpoint is not taken for an empty storage."""
    with answering(status, body) as port:
        calls: list[Callable[[], object]] = [lambda: list(at_port(port).list()), lambda: at_port(port).check()]
        for call in calls:
            with pytest.raises(DataGuardianError) as caught:
                call()
            assert not isinstance(caught.value, StorageTransientError)


def test_a_service_that_asks_to_slow_down_gets_what_it_wants(rclone: RcloneServer) -> None:
    """A backup outlives several 503 SlowDown in a row, each at another kind of request."""
    bucket = rclone.bucket()
    faults = [
        Nth(SLOW_DOWN, when=lambda asked: asked.method == "PUT", nth=2, times=3),
        Nth(SLOW_DOWN, when=lambda asked: asked.method == "HEAD", nth=2, times=2),
        Nth(SLOW_DOWN, when=lambda asked: "list-type" in asked.path, times=2),
    ]
    with HttpFront(rclone.port, *faults) as front:
        done = run_backup(
            plan(), BytesEngine(BytesStream("x", random.Random(1).randbytes(200_000))), behind(rclone, front, bucket)
        )
        front.assert_all_fired()
    assert run_verify(s3(rclone, bucket), done.directory).ok


def test_what_is_acknowledged_and_forgotten_is_found(rclone: RcloneServer) -> None:
    """A service that says 200 and keeps nothing fails the backup, at once and with nothing left behind."""
    bucket = rclone.bucket()

    def second_part(asked: Asked) -> bool:
        return asked.method == "PUT" and "000002" in asked.path

    with HttpFront(rclone.port, Nth(Reply(200), when=second_part)) as front:
        with pytest.raises(StorageError):
            run_backup(
                plan(),
                BytesEngine(BytesStream("x", random.Random(1).randbytes(200_000))),
                behind(rclone, front, bucket),
            )
        front.assert_all_fired()
    assert listed(s3(rclone, bucket)) == {}


def test_fifty_backups_while_one_request_in_twenty_fails(rclone: RcloneServer) -> None:
    """Each is either good, which is verified, or failed with nothing left behind; half of the errors come after the
    request was carried out.
    """
    bucket = rclone.bucket()
    direct = s3(rclone, bucket)
    good, failed = set(), 0
    chaos = Sometimes(SLOW_DOWN, share=0.05, seed=5)
    with HttpFront(rclone.port, chaos) as front:
        for number in range(50):
            engine = BytesEngine(BytesStream("x", random.Random(number).randbytes(150_000)))
            storage = RetryingStorage(
                s3(rclone, bucket, endpoint=f"http://127.0.0.1:{front.port}"), max_tries=4, sleep=lambda _seconds: None
            )
            before = listed(direct)
            try:
                good.add(run_backup(plan(execution_id=f"run-{number}"), engine, storage).directory)
            except StorageError:
                failed += 1
                assert listed(direct) == before
        front.assert_all_fired()
    assert good
    assert len(good) + failed == 50
    assert all(run_verify(direct, directory).ok for directory in good)
    assert {directory for directory, _ in list_backups(direct).backups} == good
