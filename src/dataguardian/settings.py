"""What the environment may set. Everything has a default that works."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """`staging_dir` is the only place, apart from a restore's target, where a backup ever lies on a local disk."""

    staging_dir: Path

    @classmethod
    def from_environment(cls) -> Settings:
        return cls(staging_dir=Path(os.environ.get("DATAGUARDIAN_STAGING_DIR") or tempfile.gettempdir()))
