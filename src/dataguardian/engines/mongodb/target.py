"""What a restore meets in a database: is anything there, may it be replaced, can it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dataguardian.domain.errors import NotAllowedError, TargetNotEmptyError
from dataguardian.engines.mongodb.names import PREFIX, is_ours
from dataguardian.engines.mongodb.server import Link


@dataclass(frozen=True)
class Target:
    """A database that a restore is to fill. `collections` and `views` are what listCollections says of them."""

    name: str
    place: str
    collections: tuple[dict[str, Any], ...]
    views: tuple[dict[str, Any], ...]
    leftovers: tuple[str, ...]

    @property
    def empty(self) -> bool:
        return not self.collections and not self.views

    def check(self, *, drop_existing: bool) -> None:
        """Raises TargetNotEmptyError or NotAllowedError when the restore must not begin."""
        if self.empty:
            return
        if not drop_existing:
            raise TargetNotEmptyError(
                f"database {self.name!r} at {self.place} is not empty",
                hint="restore into another database, or give --drop-existing (drop_existing) to replace this one",
                database=self.name,
            )
        if series := [str(info["name"]) for info in self.collections if info.get("type") == "timeseries"]:
            raise NotAllowedError(
                f"database {self.name!r} at {self.place} holds time series ({', '.join(series[:3])}), which MongoDB"
                " cannot rename, so that they cannot be replaced at one stroke",
                hint="restore into another database, or drop these collections yourself",
            )

    def without(self, names: set[str]) -> Target:
        """Returns the same without these collections."""
        return replace(self, collections=tuple(info for info in self.collections if info["name"] not in names))

    def warnings(self) -> list[str]:
        if not self.leftovers:
            return []
        return [
            (
                f"{self.name}: an interrupted restore left {len(self.leftovers)} collections whose names begin with"
                f" {PREFIX}; drop them when no restore is running"
            )
        ]


def look_at(link: Link, database: str) -> Target:
    infos = link.collections(database)
    visible = [info for info in infos if not str(info["name"]).startswith("system.") and not is_ours(str(info["name"]))]
    return Target(
        name=database,
        place=link.place,
        collections=tuple(info for info in visible if info.get("type") != "view"),
        views=tuple(info for info in visible if info.get("type") == "view"),
        leftovers=tuple(str(info["name"]) for info in infos if is_ours(str(info["name"]))),
    )
