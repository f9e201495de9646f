"""Backblaze B2 by its native API: `b2://bucket/prefix`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator

from dataguardian.domain.errors import DataGuardianError, UsageError
from dataguardian.domain.urls import Url
from dataguardian.storage.base import RemoteConfig, StorageAdapter
from dataguardian.storage.byhand import ByHand, in_file, with_rclone
from dataguardian.storage.s3 import Prefix, Word, ca_of

if TYPE_CHECKING:
    from dataguardian.storage.backblaze.objects import BackblazeStorage

_REALM = "https://api.backblazeb2.com"


class BackblazeConfig(RemoteConfig):
    """A bucket, by name, by id or both. Without a key B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY are taken."""

    type: Literal["backblaze"] = "backblaze"
    bucket_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    bucket_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,63}$")] | None = None
    prefix: Prefix = ""
    application_key_id: Word | None = None
    application_key: SecretStr | None = None
    endpoint: Annotated[str, Field(pattern=r"""^https?://[!"$-.0-9:->A-Z\]^_`a-z{-~]+$""")] = _REALM
    ca_file: str | None = None

    @model_validator(mode="after")
    def _fields_belong_together(self) -> Self:
        if self.bucket_id is None and self.bucket_name is None:
            raise ValueError("bucket_name or bucket_id is needed")
        if (self.application_key_id is None) != (self.application_key is None):
            raise ValueError("application_key_id and application_key belong together")
        return self

    @classmethod
    def from_url(cls, url: Url) -> Self:
        fields: dict[str, Any] = {"bucket_name": url.host, "prefix": url.path}
        if url.username is not None:
            fields |= {"application_key_id": url.username, "application_key": url.password}
        known = cls.model_fields.keys() - {"type", "bucket_name", "prefix"}
        if unknown := sorted(url.query.keys() - known):
            raise UsageError(f"a b2:// storage has no option {unknown[0]!r}", hint=f"known: {', '.join(sorted(known))}")
        try:
            return cls.model_validate({**fields, **url.query})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise UsageError(f"that b2:// address is not valid: {wrong.removeprefix(': ')}") from None

    def describe(self) -> str:
        query = {} if self.bucket_name else {"bucket_id": self.bucket_id or ""}
        if self.endpoint != _REALM:
            query["endpoint"] = self.endpoint
        return str(Url("b2", host=self.bucket_name, path=f"/{self.prefix}".rstrip("/"), query=query))

    def by_hand(self, known_hosts: str = "") -> ByHand:  # noqa: ARG002 -- not reached by SSH
        """Where only the bucket's id is known, the service is asked for its name, which rclone wants."""
        secret = self.application_key.get_secret_value() if self.application_key else None
        name, lacking = (self.bucket_name, []) if self.bucket_name else self._name_of_bucket()
        ca_text, lacking_ca = ca_of(self.ca_file)
        return with_rclone(
            "b2",
            f"{name}/{self.prefix}".rstrip("/"),
            options={
                "account": self.application_key_id or os.environ.get("B2_APPLICATION_KEY_ID"),
                "endpoint": None if self.endpoint == _REALM else self.endpoint,
            },
            secrets={"key": secret or os.environ.get("B2_APPLICATION_KEY")},
            flags=["--ca-cert", in_file("ca")] if ca_text else (),
            files={"ca": ca_text} if ca_text else {},
            paths={"ca": self.ca_file} if ca_text and self.ca_file else {},
            lacking=[*lacking, *lacking_ca],
        )

    def _name_of_bucket(self) -> tuple[str, list[str]]:
        try:
            return _build(self).bucket[1], []
        except DataGuardianError as error:
            told = (
                f"rclone wants the name of the bucket {self.bucket_id}, which could not be asked for: {error.message}"
            )
            return "NAME-OF-THE-BUCKET", [told]


def _build(config: BackblazeConfig) -> BackblazeStorage:
    from dataguardian.storage.backblaze.objects import BackblazeStorage  # noqa: PLC0415 -- loaded when it is used

    return BackblazeStorage(config)


ADAPTER = StorageAdapter(
    type="backblaze",
    schemes=("b2",),
    example="b2://bucket/prefix",
    config=BackblazeConfig,
    build=_build,
    package="b2sdk",
)
