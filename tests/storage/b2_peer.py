"""Backblaze's own simulator behind HTTP, so that real clients reach it over a socket.

Run as `python -m tests.storage.b2_peer PORT`; prints `{"owner": [id, key], "guest": [id, key]}` when it is ready.
`POST /_bucket` with `{"name"}` makes a bucket, `POST /_fill` with `{"bucket", "names", "text"}` puts objects.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from b2sdk.v2 import RawSimulator
from b2sdk.v2.exception import B2Error, FileNotPresent, InvalidAuthToken, StorageCapExceeded, Unauthorized

API = re.compile(r"/b2api/v\d+/b2_(\w+)")
FULL_AT_BYTES = 4 * 1024 * 1024


class Simulator(RawSimulator):
    """Buckets by the hundreds, and one lock around everything."""

    def __init__(self) -> None:
        super().__init__()
        self.bucket_id_counter = iter(range(10_000))
        self.file_ids = itertools.count(99_999_999, -1)  # the newest version has the lowest id
        self.lock = threading.RLock()
        self.account_id, self.master_key = self.create_account()
        self.auth = self.authorize_account("x", self.account_id, self.master_key)["authorizationToken"]

    def new_bucket(self, name: str) -> None:
        self.create_bucket(self.API_URL, self.auth, self.account_id, name, "allPrivate")
        bucket = self.bucket_name_to_bucket[name]
        bucket.upload_url_counter = itertools.count()
        bucket.file_id_counter = self.file_ids
        bucket.upload_timestamp_counter = itertools.count(5000)

    def new_key(self, *capabilities: str) -> list[str]:
        made = self.create_key(self.API_URL, self.auth, self.account_id, list(capabilities), "guest", None, None, None)
        return [made["applicationKeyId"], made["applicationKey"]]

    def put(self, bucket: str, name: str, data: bytes) -> dict[str, Any]:
        upload = self._get_bucket_by_name(bucket).get_upload_url(self.auth)
        sha1 = hashlib.sha1(data).hexdigest()
        url = upload["uploadUrl"]
        return self.upload_file(url, url, name, len(data), "text/plain", sha1, {}, io.BytesIO(data))


def snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sim: Simulator

    def log_message(self, *_: object) -> None:
        pass

    @property
    def base(self) -> str:
        """The address that the client came by, which may be a proxy's."""
        return f"http://{self.headers['Host']}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/upload/"):
            return self._guarded(lambda: self._upload(body))
        match = API.fullmatch(self.path)
        params = json.loads(body or b"{}")
        return self._guarded(lambda: self._call(match[1], params) if match else self._control(params))

    def do_GET(self) -> None:
        match = API.fullmatch(urlsplit(self.path).path)
        if match and match[1] == "download_file_by_id":
            return self._guarded(lambda: self._download(self.path))
        if match:
            return self._guarded(lambda: self._call(match[1], {}))
        return self._guarded(lambda: self._download(self.path))

    do_HEAD = do_GET  # noqa: N815 -- the base's name

    def _guarded(self, call: Any) -> None:
        try:
            with self.sim.lock:
                answer = call()
        except FileNotPresent as error:
            self._fail(404, "not_found", error)
        except StorageCapExceeded as error:
            self._fail(403, "storage_cap_exceeded", error)
        except InvalidAuthToken as error:
            self._fail(401, error.code or "bad_auth_token", error)
        except Unauthorized as error:
            self._fail(401, error.code or "unauthorized", error)
        except B2Error as error:
            self._fail(400, "bad_request", error)
        except Exception as error:  # noqa: BLE001 -- a bug of the simulator is an ill service
            self._fail(500, "internal_error", error)
        else:
            if answer is not None:
                self._send(200, json.dumps(answer, default=list).encode(), {"Content-Type": "application/json"})

    def _call(self, name: str, params: dict[str, Any]) -> dict[str, Any]:
        if name == "authorize_account":
            return self._authorize()
        token = self.headers["Authorization"]
        given = {snake(key): value for key, value in params.items() if key not in ("delimiter", "bucketTypes")}
        if name == "list_file_names" and params.get("delimiter"):
            return self._level(token, params)
        answer: dict[str, Any] = getattr(self.sim, name)(self.sim.API_URL, token, **given)
        if name == "get_upload_url":
            answer = dict(answer, uploadUrl=f"{self.base}/upload/{answer['uploadUrl'].partition('.com/')[2]}")
        return answer

    def _authorize(self) -> dict[str, Any]:
        key_id, _, key = base64.b64decode(self.headers["Authorization"].split()[1]).decode().partition(":")
        answer = self.sim.authorize_account("x", key_id, key)
        answer["apiInfo"]["storageApi"] |= {"apiUrl": self.base, "downloadUrl": self.base, "s3ApiUrl": self.base}
        return answer

    def _level(self, token: str, params: dict[str, Any]) -> dict[str, Any]:
        """One level of a listing, as `delimiter` asks for; the simulator does not know it."""
        prefix = params.get("prefix") or ""
        found = self.sim.list_file_names(
            self.sim.API_URL, token, params["bucketId"], prefix or None, 100_000, prefix or None
        )
        entries: dict[str, dict[str, Any]] = {}
        for entry in found["files"]:
            first, slash, _ = entry["fileName"].removeprefix(prefix).partition("/")
            name = prefix + first + slash
            folder = {"fileName": name, "action": "folder", "contentLength": 0, "fileId": None}
            entries.setdefault(name, folder if slash else entry)
        return {"files": list(entries.values()), "nextFileName": None}

    def _upload(self, body: bytes) -> dict[str, Any]:
        if len(body) > FULL_AT_BYTES and "-full-" in self._bucket_of_upload():
            raise StorageCapExceeded
        token = self.headers["Authorization"]
        name = unquote_plus(self.headers["X-Bz-File-Name"])
        sha1 = self.headers["X-Bz-Content-Sha1"]
        kind = self.headers["Content-Type"]
        answer: dict[str, Any] = self.sim.upload_file(token, token, name, len(body), kind, sha1, {}, io.BytesIO(body))
        return answer

    def _bucket_of_upload(self) -> str:
        return str(self.sim._get_bucket_by_id(self.path.split("/")[2]).bucket_name)

    def _download(self, path: str) -> None:
        token, url = self.headers["Authorization"], f"{self.sim.DOWNLOAD_URL}{path}"
        self.sim._assert_account_auth(self.sim.API_URL, token, self.sim.account_id, "readFiles")
        with self.sim.download_file_from_url(token, url) as response:
            headers = {key: str(value) for key, value in response.headers.items() if key.lower() != "content-length"}
            self._send(200, response.data_bytes, headers)

    def _control(self, params: dict[str, Any]) -> dict[str, Any]:
        if self.path == "/_bucket":
            self.sim.new_bucket(params["name"])
        else:
            for name in params["names"]:
                self.sim.put(params["bucket"], name, params["text"].encode())
        return {}

    def _fail(self, status: int, code: str, error: Exception) -> None:
        body = {"status": status, "code": code, "message": f"{type(error).__name__}: {error}"}
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    Handler.sim = Simulator()
    keys = {"owner": [Handler.sim.account_id, Handler.sim.master_key], "guest": Handler.sim.new_key("listBuckets")}
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    sys.stdout.write(json.dumps(keys) + "\n")
    sys.stdout.flush()
    server.serve_forever()
