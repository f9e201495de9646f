"""moto's S3 as a server of its own, with keys that are checked and a quick way to fill a bucket.

Run as `python -m tests.storage.moto_peer PORT`; prints `{"owner": [key, secret], "guest": [key, secret]}` when it is
ready. The owner may do everything, the guest nothing. `POST /_fill` with `{"bucket", "keys", "text"}` puts objects.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"

from moto.core.models import DEFAULT_ACCOUNT_ID  # type: ignore[attr-defined]
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 -- the base's name
        pass


def users() -> dict[str, list[str]]:
    iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    keys = {}
    for name in ("owner", "guest"):
        iam.create_user("us-east-1", name)
        made = iam.create_access_key(name)
        keys[name] = [made.access_key_id, made.secret_access_key]
    iam.put_user_policy("owner", "everything", json.dumps(EVERYTHING))
    return keys


def filling(app: Wsgi) -> Wsgi:
    def call(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/_fill":
            return app(environ, start)
        order = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for key in order["keys"]:
            backend.put_object(order["bucket"], key, order["text"].encode())
        start("204 No Content", [("Content-Length", "0")])
        return [b""]

    return call


if __name__ == "__main__":
    application = filling(DomainDispatcherApplication(create_backend_app))
    sys.stdout.write(json.dumps(users()) + "\n")
    sys.stdout.flush()
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True, request_handler=Quiet)
