"""The setting `recovery`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

SETTING = "recovery"


class RecoverySettings(BaseModel):
    """`prove_days`: somebody is reminded when a key that opens backups was not proven for so many days; 0 for never."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prove_days: Annotated[int, Field(ge=0, le=3650)] = 90
