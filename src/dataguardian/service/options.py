"""What a backup job may be told: `backup_options` of SPEC M11, checked when a job is stored and read when it runs."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataguardian.core.backup import DEFAULT_PART_SIZE_BYTES
from dataguardian.core.backupkeys import EncryptionOptions
from dataguardian.core.targets import DEFAULT_LAG_SECONDS
from dataguardian.core.texts import Text
from dataguardian.domain.errors import UsageError
from dataguardian.domain.sizes import MIB
from dataguardian.domain.states import Strategy
from dataguardian.service.secrets import revealed
from dataguardian.storage.base import BandwidthLimit
from dataguardian.streams.codecs import codec_for

MOST_MINUTES = 366 * 24 * 60
MOST_TARGETS = 9
MOST_STREAMS = 10_000
DatabaseName = Annotated[Text, Field(min_length=1, max_length=1000)]


class BackupOptions(BaseModel):
    """`timeout_minutes` and `stall_minutes` of 0 mean no limit.

    `streams` are databases of a datasource that is a whole server, by their names as they are; none is all of them.

    `bandwidth_limit_mbps` (10^6 bits per second, to each storage location on its own) comes on top of a location's own
    limit: the lower one counts.

    `storage_targets` are ids of storage locations beside the job's own. With `replicate` all of them must hold every
    backup, and one that still lacks a part `storage_lag_seconds` after another one has it is left behind, to be
    repaired by copying; with `fallback` the first one that works gets it.

    `encryption` says for whom every part is encrypted; None is not at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    compression: Literal["zstd", "gzip", "lz4", "none"] = "zstd"
    compression_level: int | None = None
    part_size_mb: Annotated[int, Field(ge=1, le=1024)] = DEFAULT_PART_SIZE_BYTES // MIB
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    streams: Annotated[tuple[DatabaseName, ...], Field(max_length=MOST_STREAMS)] = ()
    timeout_minutes: Annotated[float, Field(ge=0, le=MOST_MINUTES)] = 0
    stall_minutes: Annotated[float, Field(ge=0, le=MOST_MINUTES)] = 60
    bandwidth_limit_mbps: BandwidthLimit | None = None
    storage_targets: Annotated[tuple[uuid.UUID, ...], Field(max_length=MOST_TARGETS)] = ()
    storage_strategy: Strategy = Strategy.REPLICATE
    storage_lag_seconds: Annotated[float, Field(gt=0, le=86400)] = DEFAULT_LAG_SECONDS
    encryption: EncryptionOptions | None = None

    @field_validator("storage_targets")
    @classmethod
    def _all_different(cls, targets: tuple[uuid.UUID, ...]) -> tuple[uuid.UUID, ...]:
        if len(set(targets)) != len(targets):
            raise ValueError("a storage location is named twice")
        return targets

    @field_validator("streams")
    @classmethod
    def _each_once(cls, streams: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(streams)) != len(streams):
            raise ValueError("a database is named twice")
        return streams

    @model_validator(mode="after")
    def _level_exists(self) -> Self:
        try:
            codec_for(self.compression, self.compression_level)
        except UsageError as error:
            raise ValueError(f"{error.message} ({error.hint})") from error
        return self

    @property
    def part_size_bytes(self) -> int:
        return self.part_size_mb * MIB

    def document(self) -> dict[str, Any]:
        """Returns plain JSON with the secrets in clear."""
        return revealed(self, keep_none=True)
