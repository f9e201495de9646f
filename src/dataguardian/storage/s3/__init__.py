"""Amazon S3 and services that speak its protocol: `s3://bucket/prefix?endpoint=https://…`.

Without keys the usual chain is asked: AWS_* variables, the profiles of `~/.aws`, web identity, the machine's own role.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator

from dataguardian.domain.errors import StorageDeniedError, UsageError
from dataguardian.domain.urls import Url
from dataguardian.storage.base import RemoteConfig, StorageAdapter, checked_path
from dataguardian.storage.byhand import ByHand, in_file, with_rclone

if TYPE_CHECKING:
    import ssl

    from botocore.credentials import Credentials

    from dataguardian.storage.s3.objects import ObjectOptions, S3Storage
    from dataguardian.storage.s3.wire import Place

DEFAULT_REGION = "us-east-1"

_MOST_CA_CHARACTERS = 20_000
_SSE = "x-amz-server-side-encryption"
_VIRTUAL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


def _prefix(text: str) -> str:
    text = text.strip("/")
    try:
        return checked_path(text) if text else ""
    except UsageError as error:
        raise ValueError(error.message) from None


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    try:
        is_plain = text.isascii() and text.isprintable() and not set(text) & set(" @?#\\")
        is_good = is_plain and parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good or parts.path.strip("/"):
        raise ValueError("must be an address such as https://s3.example.org or http://127.0.0.1:9000")
    return text.rstrip("/")


def _customer_key(text: SecretStr) -> SecretStr:
    try:
        size_bytes = len(base64.b64decode(text.get_secret_value(), validate=True))
    except (binascii.Error, ValueError):
        size_bytes = 0
    if size_bytes != 32:  # noqa: PLR2004 -- AES-256
        raise ValueError("must be 32 bytes in base64, such as `openssl rand -base64 32` prints")
    return text


Bucket = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")]
Prefix = Annotated[str, AfterValidator(_prefix)]
Word = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,2048}$")]
"""Goes into a header: no line breaks, nothing but ASCII."""


class BucketConfig(RemoteConfig):
    """What every service of this protocol can be told."""

    bucket: Bucket
    prefix: Prefix = ""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    storage_class: Annotated[str, Field(pattern=r"^[A-Z_]{1,40}$")] | None = None
    ca_file: str | None = None
    verify: bool = True
    server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key_id: Word | None = None
    sse_customer_key: Annotated[SecretStr, AfterValidator(_customer_key)] | None = None
    object_lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] | None = None
    object_lock_retain_days: Annotated[int, Field(ge=1, le=36_500)] | None = None

    @model_validator(mode="after")
    def _options_belong_together(self) -> Self:
        if (self.object_lock_mode is None) != (self.object_lock_retain_days is None):
            raise ValueError("object_lock_mode and object_lock_retain_days belong together")
        if self.kms_key_id is not None and not (self.server_side_encryption or "").startswith("aws:kms"):
            raise ValueError("kms_key_id needs server_side_encryption=aws:kms")
        if self.sse_customer_key is not None and self.server_side_encryption is not None:
            raise ValueError("sse_customer_key and server_side_encryption exclude each other")
        return self

    def tls(self, scheme: str) -> ssl.SSLContext | None:
        from dataguardian.storage.transport.http import tls_context  # noqa: PLC0415 -- loaded when it is used

        ca_file = self.ca_file or os.environ.get("AWS_CA_BUNDLE") or None
        return tls_context(verify=self.verify, ca_file=ca_file) if scheme == "https" else None

    def bucket_by_hand(
        self, endpoint: str, access_key: str | None, secrets: dict[str, str | None], *, path_style: bool
    ) -> ByHand:
        """Returns commands for any service of this protocol."""
        customer_key = self.sse_customer_key.get_secret_value() if self.sse_customer_key else None
        ca_text, lacking = ca_of(self.ca_file, "AWS_CA_BUNDLE") if endpoint.startswith("https:") else ("", [])
        files, flags = ({"ca": ca_text}, ["--ca-cert", in_file("ca")]) if ca_text else ({}, [])
        if access_key is None:
            lacking.append("the keys come from the machine's own chain (profile or role): they are not in this kit")
        return with_rclone(
            "s3",
            f"{self.bucket}/{self.prefix}".rstrip("/"),
            options={
                "provider": "AWS" if ".amazonaws.com" in endpoint else "Other",
                "endpoint": endpoint,
                "region": self.region or DEFAULT_REGION,
                "force_path_style": str(path_style).lower(),
                "access_key_id": access_key,
                "env_auth": "true" if access_key is None else None,
                "sse_customer_algorithm": "AES256" if customer_key else None,
            },
            secrets={**secrets, "sse_customer_key_base64": customer_key},
            flags=flags + ([] if self.verify else ["--no-check-certificate"]),
            files=files,
            paths={"ca": self.ca_file} if ca_text and self.ca_file else {},
            lacking=lacking,
        )

    def object_options(self) -> ObjectOptions:
        from dataguardian.storage.s3.objects import ObjectOptions  # noqa: PLC0415 -- as above

        write = {
            "x-amz-storage-class": self.storage_class,
            _SSE: self.server_side_encryption,
            f"{_SSE}-aws-kms-key-id": self.kms_key_id,
        }
        return ObjectOptions(
            write={name: value for name, value in write.items() if value is not None},
            key=_customer_headers(self.sse_customer_key),
            lock_mode=self.object_lock_mode,
            retain_days=self.object_lock_retain_days,
        )


class S3Config(BucketConfig):
    """A bucket. Without `endpoint` it is one of Amazon's; `path_style` None lets the kind of endpoint decide."""

    type: Literal["s3"] = "s3"
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    access_key_id: Word | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    profile: str | None = None
    path_style: bool | None = None

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together")
        return self

    @classmethod
    def from_url(cls, url: Url) -> Self:
        made: Self = from_bucket_url(cls, url, {"bucket": url.host, "prefix": url.path}, keys=_KEYS)
        return made

    def describe(self) -> str:
        query = {} if self.endpoint is None else {"endpoint": self.endpoint}
        path = f"/{self.prefix}" if self.prefix else ""
        return str(Url("s3", host=self.bucket, path=path, query=query))

    def by_hand(self, known_hosts: str = "") -> ByHand:  # noqa: ARG002 -- not reached by SSH
        place = _place(self, self.region)
        endpoint = self.endpoint or f"{place.scheme}://{place.host}"
        secrets = {"secret_access_key": self.secret_access_key, "session_token": self.session_token}
        texts = {name: secret.get_secret_value() if secret else None for name, secret in secrets.items()}
        key = self.access_key_id
        if key is None:
            key, found = _chain_by_hand(self.profile)
            texts |= found
        return self.bucket_by_hand(endpoint, key, texts, path_style=place.path_style)


_KEYS = ("access_key_id", "secret_access_key")


def from_bucket_url(kind: type[BucketConfig], url: Url, fields: dict[str, Any], *, keys: tuple[str, str]) -> Any:  # noqa: ANN401 -- an instance of `kind`
    """Returns the configuration that an address means: its user and password are the keys, its query the rest."""
    known = kind.model_fields.keys() - {*fields, "type"}
    if unknown := sorted(url.query.keys() - known):
        raise UsageError(
            f"a {url.scheme}:// storage has no option {unknown[0]!r}", hint=f"known: {', '.join(sorted(known))}"
        )
    if url.username is not None:
        fields |= {keys[0]: url.username, keys[1]: url.password}
    try:
        return kind.model_validate({**fields, **url.query})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"that {url.scheme}:// address is not valid: {wrong}".replace(": :", ":")) from None


def _customer_headers(key: SecretStr | None) -> dict[str, str]:
    """Returns the headers of SSE-C."""
    if key is None:
        return {}
    raw = base64.b64decode(key.get_secret_value())
    digest = hashlib.md5(raw, usedforsecurity=False).digest()  # the protocol wants it, as a checksum
    return {
        f"{_SSE}-customer-algorithm": "AES256",
        f"{_SSE}-customer-key": base64.b64encode(raw).decode(),
        f"{_SSE}-customer-key-MD5": base64.b64encode(digest).decode(),
    }


def given_keys(access_key: str, secret_key: SecretStr, token: SecretStr | None = None) -> Credentials:
    from botocore.credentials import Credentials  # noqa: PLC0415 -- an SDK is loaded when it is used

    return Credentials(access_key, secret_key.get_secret_value(), token.get_secret_value() if token else None)


def _chain(profile: str | None) -> tuple[Credentials | None, str | None]:
    """Returns what the usual chain finds: keys that renew themselves, and a region."""
    import botocore.exceptions  # noqa: PLC0415 -- as above
    import botocore.session  # noqa: PLC0415 -- as above

    session = botocore.session.Session(profile=profile)
    try:
        return session.get_credentials(), session.get_config_variable("region")
    except botocore.exceptions.BotoCoreError as error:
        raise StorageDeniedError(f"no AWS keys: {error}", hint="check the profile, or give access_key_id") from error


def _chain_by_hand(profile: str | None) -> tuple[str | None, dict[str, str | None]]:
    """Returns the keys of the usual chain where they last: those that a role lends are gone within hours."""
    try:
        found, _ = _chain(profile)
    except StorageDeniedError:
        return None, {}
    if found is None or found.token is not None or not found.secret_key:
        return None, {}
    return found.access_key, {"secret_access_key": found.secret_key}


def ca_of(ca_file: str | None, variable: str | None = None) -> tuple[str, list[str]]:
    """Returns the certificates that the service is checked with, and what is lacking of them.

    A collection of everybody's is no part of a kit: every system has one.
    """
    path = ca_file or (os.environ.get(variable) if variable else None)
    if not path:
        return "", []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "", [f"the certificates in {path} could not be read"]
    if len(text) <= _MOST_CA_CHARACTERS:
        return text, []
    return "", [f"the certificates in {path} are too many for a kit: copy that file"] if ca_file else []


def _build(config: S3Config) -> S3Storage:
    credentials, region = None, config.region
    if config.access_key_id is not None and config.secret_access_key is not None:
        credentials = given_keys(config.access_key_id, config.secret_access_key, config.session_token)
    else:
        credentials, found = _chain(config.profile)
        region = region or found
    return bucket_storage(config, _place(config, region), credentials)


def bucket_storage(config: BucketConfig, place: Place, credentials: Credentials | None) -> S3Storage:
    from dataguardian.storage.s3.objects import S3Storage  # noqa: PLC0415 -- as above
    from dataguardian.storage.s3.wire import S3Wire  # noqa: PLC0415 -- as above

    tls = config.tls(place.scheme)
    wire = S3Wire(place, credentials, timeout_seconds=config.timeout_seconds, tls=tls)
    return S3Storage(wire, prefix=config.prefix, address=place.address, options=config.object_options())


def _place(config: S3Config, region: str | None) -> Place:
    from dataguardian.storage.s3.wire import Place  # noqa: PLC0415 -- as above

    suffix = "amazonaws.com.cn" if (region or "").startswith("cn-") else "amazonaws.com"
    parts = urlsplit(config.endpoint or f"https://s3.{region or DEFAULT_REGION}.{suffix}")
    can_be_host = parts.scheme == "http" or _VIRTUAL_NAME.fullmatch(config.bucket) is not None
    path_style = config.endpoint is not None or not can_be_host
    return Place(
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=parts.port,
        bucket=config.bucket,
        path_style=path_style if config.path_style is None else config.path_style,
        region=region,
        address=config.describe(),
    )


ADAPTER = StorageAdapter(
    type="s3",
    schemes=("s3",),
    example="s3://bucket/prefix?endpoint=https://s3.example.org",
    config=S3Config,
    build=_build,
    package="botocore",
)
