"""What a backup job may be told: `backup_options` of SPEC M11, checked when a job is stored and read when it runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataguardian.core.backup import DEFAULT_PART_SIZE_BYTES
from dataguardian.domain.errors import UsageError
from dataguardian.domain.sizes import MIB
from dataguardian.streams.codecs import codec_for

MOST_MINUTES = 366 * 24 * 60


class BackupOptions(BaseModel):
    """`timeout_minutes` and `stall_minutes` of 0 mean no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compression: Literal["zstd", "gzip", "lz4", "none"] = "zstd"
    compression_level: int | None = None
    part_size_mb: Annotated[int, Field(ge=1, le=1024)] = DEFAULT_PART_SIZE_BYTES // MIB
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    timeout_minutes: Annotated[float, Field(ge=0, le=MOST_MINUTES)] = 0
    stall_minutes: Annotated[float, Field(ge=0, le=MOST_MINUTES)] = 60

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
        """Returns the plain JSON that the catalogue stores."""
        return self.model_dump(mode="json")
