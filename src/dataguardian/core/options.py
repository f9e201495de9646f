"""What a backup job may be told: `backup_options` of SPEC M11, checked when a job is stored and read when it runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dataguardian.core.backup import DEFAULT_PART_SIZE_BYTES
from dataguardian.domain.sizes import MIB


class BackupOptions(BaseModel):
    """`timeout_minutes` and `stall_minutes` of 0 mean no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compression: Literal["zstd", "gzip", "lz4", "none"] = "zstd"
    compression_level: int | None = None
    part_size_mb: Annotated[int, Field(ge=1, le=1024)] = DEFAULT_PART_SIZE_BYTES // MIB
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    timeout_minutes: Annotated[float, Field(ge=0)] = 0
    stall_minutes: Annotated[float, Field(ge=0)] = 60

    @property
    def part_size_bytes(self) -> int:
        return self.part_size_mb * MIB

    def document(self) -> dict[str, Any]:
        """Returns the plain JSON that the catalogue stores."""
        return self.model_dump(mode="json")
