"""From what a file declares to what has to be done: compared by the service, which alone knows the secrets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dataguardian.cli.client import Client, Document
from dataguardian.cli.declared import (
    DATASOURCES,
    JOBS,
    SECTIONS,
    SETTINGS,
    STORAGES,
    TARGETS,
    Declared,
    Entry,
    Section,
    raise_all,
)
from dataguardian.cli.yamlfile import Spot, unset_spots
from dataguardian.domain.errors import UsageError
from dataguardian.service.secrets import MASK

SETTING_PATH = "/api/system/settings"
COMPARE = "/api/system/compare"
BATCH = 200
OWN_TAG = "dataguardian"
"""Marks what guards the service's own catalogue: it is neither exported nor pruned."""

_TARGETS_FIELD = f"backup_options.{TARGETS}"

Action = Literal["create", "change", "remove"]
Path = tuple[str | int, ...]

_PARTIES = {"datasource": ("datasource_id", DATASOURCES), "storage_location": ("storage_location_id", STORAGES)}


@dataclass(frozen=True)
class Difference:
    """`before` and `after` as they may be shown: two equal masks are a secret that changes."""

    field: str
    before: Any
    after: Any


@dataclass
class Change:
    """One thing to do. `fields` are the API's, without names of things that do not exist yet: those are `parties`."""

    action: Action
    noun: str
    name: str
    section: Section | None
    row_id: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    parties: dict[str, str] = field(default_factory=dict)
    """Of a job: field of the body to the name of what the plan creates first."""
    targets: dict[str, str | None] = field(default_factory=dict)
    """Of a job: names to ids of its further storage locations, when the plan creates one of them (None) first."""
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True)
class Known:
    """What the service has now, by section and name, and its settings by key; secrets masked."""

    rows: dict[str, dict[str, Document]]
    settings: dict[str, Document]

    def row(self, section: Section, name: str) -> Document | None:
        return self.rows[section.name].get(name)

    def name_of(self, row_id: object) -> str | None:
        """Returns the name of the datasource or storage location with that id."""
        rows = [*self.rows[DATASOURCES.name].values(), *self.rows[STORAGES.name].values()]
        return next((row["name"] for row in rows if row["id"] == row_id), None)


@dataclass(frozen=True)
class Plan:
    changes: list[Change]
    warnings: list[str]


def party_noun(body_field: str) -> str:
    """Returns what a job's field refers to, as texts call it."""
    return next(section.noun.name for name, section in _PARTIES.values() if name == body_field)


def known(client: Client) -> Known:
    rows = {section.name: {row["name"]: row for row in client.every(section.noun.path)} for section in SECTIONS}
    return Known(rows, {setting["key"]: setting for setting in client.rows(SETTING_PATH)})


def guards_itself(there: Known) -> dict[str, set[str]]:
    """Returns the names, by section, of what backs up the service's own catalogue."""
    sources = {name: row["id"] for name, row in there.rows[DATASOURCES.name].items() if OWN_TAG in row["tags"]}
    jobs = {
        name: row["storage_location_id"]
        for name, row in there.rows[JOBS.name].items()
        if row["datasource_id"] in sources.values()
    }
    storages = {name for name, row in there.rows[STORAGES.name].items() if row["id"] in jobs.values()}
    return {DATASOURCES.name: set(sources), JOBS.name: set(jobs), STORAGES.name: storages}


def make_plan(client: Client, wanted: Declared, *, prune: bool) -> Plan:
    """Returns what makes the service as declared. Raises UsageError, with line numbers, for what is not valid."""
    there = known(client)
    planner = _Planner(wanted, there)
    changes = [planner.change(entry) for entry in wanted.entries]
    changes += [planner.setting(key, value, prune=prune) for key, value in wanted.settings.items()]
    raise_all(planner.problems)
    for change, comparison in zip(changes, _compared(client, changes), strict=True):
        planner.take(change, comparison)
    raise_all(planner.problems)
    needed = [change for change in changes if change.action == "create" or change.differences]
    return Plan(needed + (list(_doomed(wanted, there)) if prune else []), planner.warnings)


class _Planner:
    def __init__(self, wanted: Declared, there: Known) -> None:
        self._wanted = wanted
        self._there = there
        self._declared = {(entry.section.name, entry.name): entry for entry in wanted.entries}
        self.problems: list[UsageError] = []
        self.warnings: list[str] = []

    def change(self, entry: Entry) -> Change:
        row = self._there.row(entry.section, entry.name)
        change = Change("change" if row else "create", entry.section.noun.name, entry.name, entry.section)
        change.row_id = row["id"] if row else None
        change.fields = self._kept(entry.fields, row or {}, entry.spot, f"{change.noun} {entry.name}")
        if entry.section is JOBS:
            self._resolve_parties(entry, change)
            self._resolve_targets(entry, change)
        elif row is None and not change.fields.get("type"):
            self.problems.append(entry.problem(self._wanted.file, "a new one needs a type or an url"))
        return change

    def setting(self, key: str, fields: dict[str, Any], *, prune: bool) -> Change:
        """Notification channels have names: those that the file leaves out stay, unless it is to prune."""
        shown = self._there.settings.get(key, {}).get("value", {})
        value = self._kept(fields, shown, (SETTINGS, key), f"setting {key}")
        if isinstance(value.get("channels"), dict) and not prune:
            value["channels"] = shown.get("channels", {}) | value["channels"]
        return Change("change", "setting", key, None, key, {"value": value})

    def take(self, change: Change, comparison: Document) -> None:
        """Takes in what the service says of a change."""
        spot = (change.section.name if change.section else SETTINGS, change.name)
        problem = comparison["problem"]
        if problem is not None:
            place = self._spot_named_in(problem["message"], spot)
            text = f"{self._wanted.file.where(place)}: {change.noun} {change.name}: {problem['message']}"
            self.problems.append(UsageError(text, hint=str(problem["details"].get("hint", ""))))
            return
        differences = [self._shown(change, item, spot) for item in comparison["differences"]]
        if change.action == "create":
            differences = [item for item in differences if item.after is not None and self._is_declared(item, spot)]
        for body_field, name in change.parties.items():
            before = self._there.row(JOBS, change.name) or {}
            differences.append(Difference(body_field, self._there.name_of(before.get(body_field)), name))
        if change.targets:
            options = (self._there.row(JOBS, change.name) or {}).get("backup_options", {})
            before_names = [self._there.name_of(target) for target in options.get(TARGETS) or ()]
            differences.append(Difference(_TARGETS_FIELD, before_names, list(change.targets)))
        change.differences = differences

    def _kept(self, fields: dict[str, Any], shown: Document, spot: Spot, what: str) -> dict[str, Any]:
        """Returns the fields; where a variable is not set and a secret is stored, the mask that keeps it."""
        kept = dict(fields)
        for path, unset in unset_spots(fields):
            if _at(shown, path) != MASK:
                text = f"{self._wanted.file.where((*spot, *path))}: the variable {unset.variable} is not set"
                self.problems.append(UsageError(text, hint=f"set it, such as with `export {unset.variable}=…`"))
                continue
            kept = _put(kept, path, MASK)
            field_name = ".".join(map(str, path))
            self.warnings.append(f"{unset.variable} is not set: {what} keeps the {field_name} that is stored")
        return kept

    def _resolve_parties(self, entry: Entry, change: Change) -> None:
        for key, (body_field, section) in _PARTIES.items():
            if key not in change.fields:
                continue
            name = change.fields.pop(key)
            row = self._there.row(section, name) if name is not None else None
            if name is None or row is not None:
                change.fields[body_field] = row["id"] if row else None
            elif (section.name, name) in self._declared:
                change.parties[body_field] = name
            else:
                self.problems.append(entry.problem(self._wanted.file, f"there is no {section.noun.name} {name!r}", key))
        if change.action == "create" and "datasource" not in entry.fields:
            self.problems.append(entry.problem(self._wanted.file, "a new one needs a datasource"))

    def _resolve_targets(self, entry: Entry, change: Change) -> None:
        """Turns the names of further storage locations into ids; what does not exist yet is left for later."""
        options = change.fields.get("backup_options") or {}
        ids: dict[str, str | None] = {}
        for name in options.get(TARGETS) or ():
            row = self._there.row(STORAGES, name)
            if row is None and (STORAGES.name, name) not in self._declared:
                text = f"there is no {STORAGES.noun.name} {name!r}"
                self.problems.append(entry.problem(self._wanted.file, text, "backup_options", TARGETS))
            ids[name] = row["id"] if row else None
        if ids and None in ids.values():
            change.targets = ids
            change.fields["backup_options"] = {key: value for key, value in options.items() if key != TARGETS}
        elif ids:
            known_ids = [str(ids[name]) for name in options[TARGETS]]
            change.fields["backup_options"] = options | {TARGETS: known_ids}

    def _shown(self, change: Change, item: Document, spot: Spot) -> Difference:
        """Returns a difference in the words of the file: names for ids, and references as they are written there."""
        name, before, after = item["field"], item["before"], item["after"]
        if name in {body_field for body_field, _ in _PARTIES.values()}:
            return Difference(name, self._there.name_of(before), self._there.name_of(after))
        if name == _TARGETS_FIELD:
            before, after = ([self._there.name_of(target) for target in side or ()] for side in (before, after))
            return Difference(name, before, after)
        path = name.removeprefix("value.").split(".")
        written = self._wanted.file.reference((*spot, *path)) if after is not None else None
        return Difference(name if change.section else ".".join(path), before, written or after)

    def _is_declared(self, item: Difference, spot: Spot) -> bool:
        """Tells whether the file says so itself, so that a new thing is not told with all its defaults."""
        lines = self._wanted.file.lines
        key = {"datasource_id": "datasource", "storage_location_id": "storage_location"}.get(item.field, item.field)
        return (*spot, *key.split(".")) in lines or ((*spot, "url") in lines and "config." in item.field)

    def _spot_named_in(self, text: str, spot: Spot) -> Spot:
        """Returns the place of the field that an error names, such as in `… not valid: port: should be less`."""
        inside = [place for place in self._wanted.file.lines if place[: len(spot)] == spot and len(place) > len(spot)]
        for place in sorted(inside, key=len, reverse=True):
            names = [".".join(map(str, place[start:])) for start in range(len(spot), len(place))]
            if any(f"{name}:" in text or f"{name} " in text for name in names):
                return place
        return spot


def _compared(client: Client, changes: Sequence[Change]) -> Iterator[Document]:
    for first in range(0, len(changes), BATCH):
        items = [
            {
                "kind": change.section.kind if change.section else "setting",
                "reference": change.row_id,
                "fields": change.fields,
            }
            for change in changes[first : first + BATCH]
        ]
        yield from client.post(COMPARE, {"items": items})["items"]


def _doomed(wanted: Declared, there: Known) -> Iterator[Change]:
    """Yields what the file's sections leave out, users before what they use."""
    own = guards_itself(there)
    declared = {(entry.section.name, entry.name) for entry in wanted.entries}
    for section in reversed([section for section in SECTIONS if section in wanted.sections]):
        for name, row in there.rows[section.name].items():
            if (section.name, name) not in declared and name not in own[section.name]:
                yield Change("remove", section.noun.name, name, section, row["id"])


def _at(document: Any, path: Path) -> Any:  # noqa: ANN401 -- any JSON
    for key in path:
        try:
            document = document[key]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _put(document: Any, path: Path, value: str) -> Any:  # noqa: ANN401 -- any JSON
    """Returns a copy with `value` at `path`, which is there."""
    if not path:
        return value
    copy: Any = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = _put(copy[path[0]], path[1:], value)
    return copy
