"""MinIO, under the names that it gives to things: `minio://host:9000/bucket/prefix?use_ssl=false`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, SecretStr, model_validator

from dataguardian.domain.errors import StorageDeniedError, UsageError
from dataguardian.domain.urls import Url
from dataguardian.storage.base import StorageAdapter
from dataguardian.storage.byhand import ByHand
from dataguardian.storage.s3 import DEFAULT_REGION, BucketConfig, Word, bucket_storage, from_bucket_url, given_keys

if TYPE_CHECKING:
    from dataguardian.storage.s3.objects import S3Storage
    from dataguardian.storage.s3.wire import Place


def _host_and_port(text: str) -> str:
    """Accepts `host`, `host:port`, and the same behind http:// or https://, which `use_ssl` then has to agree with."""
    bare = text.partition("://")[2] or text
    parts = urlsplit(f"//{bare.rstrip('/')}")
    try:
        is_plain = text.isascii() and text.isprintable() and not set(text) & set(" @?#\\")
        is_good = is_plain and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good or parts.path:
        raise ValueError("must be a host and a port such as minio.example.org:9000")
    return text.rstrip("/")


class MinioConfig(BucketConfig):
    """A bucket of a MinIO server. Without keys MINIO_ACCESS_KEY and MINIO_SECRET_KEY are taken."""

    type: Literal["minio"] = "minio"
    endpoint: Annotated[str, AfterValidator(_host_and_port)]
    access_key: Word | None = None
    secret_key: SecretStr | None = None
    use_ssl: bool = True

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key belong together")
        scheme = self.endpoint.partition("://")[0] if "://" in self.endpoint else None
        if scheme not in (None, "https" if self.use_ssl else "http"):
            raise ValueError("use_ssl and the scheme of the endpoint do not agree")
        return self

    @classmethod
    def from_url(cls, url: Url) -> Self:
        bucket, _, prefix = url.path.strip("/").partition("/")
        if url.host is None or not bucket:
            raise UsageError("a minio:// address needs a host and a bucket", hint=f"write {ADAPTER.example}")
        host = f"[{url.host}]" if ":" in url.host else url.host
        endpoint = host if url.port is None else f"{host}:{url.port}"
        fields = {"endpoint": endpoint, "bucket": bucket, "prefix": prefix}
        made: Self = from_bucket_url(cls, url, fields, keys=("access_key", "secret_key"))
        return made

    def describe(self) -> str:
        parts = self._parts()
        path = f"/{self.bucket}/{self.prefix}".rstrip("/")
        query = {} if self.use_ssl else {"use_ssl": "false"}
        return str(Url("minio", host=parts.hostname, port=parts.port, path=path, query=query))

    def by_hand(self, known_hosts: str = "") -> ByHand:  # noqa: ARG002 -- not reached by SSH
        key = self.access_key or os.environ.get("MINIO_ACCESS_KEY")
        secret = self.secret_key.get_secret_value() if self.secret_key else os.environ.get("MINIO_SECRET_KEY")
        endpoint = f"{'https' if self.use_ssl else 'http'}://{self._parts().netloc}"
        return self.bucket_by_hand(endpoint, key, {"secret_access_key": secret}, path_style=True)

    def place(self) -> Place:
        from dataguardian.storage.s3.wire import Place  # noqa: PLC0415 -- loaded when it is used

        parts = self._parts()
        return Place(
            scheme="https" if self.use_ssl else "http",
            host=parts.hostname or "",
            port=parts.port,
            bucket=self.bucket,
            path_style=True,
            region=self.region or DEFAULT_REGION,
            address=self.describe(),
        )

    def _parts(self) -> SplitResult:
        return urlsplit(f"//{self.endpoint.partition('://')[2] or self.endpoint}")


def _build(config: MinioConfig) -> S3Storage:
    access_key = config.access_key or os.environ.get("MINIO_ACCESS_KEY")
    secret_key = config.secret_key or SecretStr(os.environ.get("MINIO_SECRET_KEY", ""))
    if not access_key or not secret_key.get_secret_value():
        raise StorageDeniedError(
            f"there are no keys for {config.describe()}",
            hint="give access_key and secret_key, or set MINIO_ACCESS_KEY and MINIO_SECRET_KEY",
        )
    return bucket_storage(config, config.place(), given_keys(access_key, secret_key))


ADAPTER = StorageAdapter(
    type="minio",
    schemes=("minio",),
    example="minio://minio.example.org:9000/bucket/prefix",
    config=MinioConfig,
    build=_build,
    package="botocore",
)
