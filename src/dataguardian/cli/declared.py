"""What a dataguardian.yaml declares: its sections, what they may hold, and what each entry means to the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from dataguardian.cli.configs import address_config
from dataguardian.cli.things import DATASOURCE, JOB, STORAGE, Noun
from dataguardian.cli.yamlfile import Spot, Unset, YamlFile
from dataguardian.domain.errors import DataGuardianError, UsageError
from dataguardian.registry import Registry

SETTINGS = "settings"
TARGETS = "storage_targets"
"""Among a job's backup_options: names here, ids in the API."""
VERSION = 1


@dataclass(frozen=True)
class Section:
    """A part of the file, by name. `kind` is the API's word for an entry, `config` the field that has secrets."""

    name: str
    kind: str
    noun: Noun
    keys: tuple[str, ...]
    config: str | None = None


STORAGES = Section(
    "storage_locations", "storage_location", STORAGE, ("type", "url", "config", "is_default"), config="config"
)
DATASOURCES = Section(
    "datasources",
    "datasource",
    DATASOURCE,
    ("type", "url", "connection_config", "enabled", "production", "tags"),
    config="connection_config",
)
JOBS = Section(
    "backup_jobs",
    "backup_job",
    JOB,
    (
        "datasource",
        "storage_location",
        "schedule_cron",
        "schedule_timezone",
        "enabled",
        "retention_policy",
        "backup_options",
    ),
)
SECTIONS = (STORAGES, DATASOURCES, JOBS)
"""In the order in which they are written: what is referred to first."""


@dataclass(frozen=True)
class Entry:
    """One declared thing: the fields of the API's body, and where it stands in the file."""

    section: Section
    name: str
    spot: Spot
    fields: dict[str, Any]

    def problem(self, file: YamlFile, text: str, *inside: str | int) -> UsageError:
        return UsageError(f"{file.where((*self.spot, *inside))}: {self.section.noun.name} {self.name}: {text}")


@dataclass(frozen=True)
class Declared:
    """The whole file. `sections` are those that it has, `settings` values by key."""

    file: YamlFile
    sections: tuple[Section, ...]
    entries: list[Entry]
    settings: dict[str, dict[str, Any]]


def declared(file: YamlFile) -> Declared:
    """Returns what a file declares; raises UsageError for the first thing that is wrong, with the others as notes."""
    problems: list[UsageError] = []
    document = file.document
    if not isinstance(document, dict):
        raise UsageError(f"{file.where(())}: the file is no mapping", hint="it begins with `datasources:` or the like")
    known = [section.name for section in SECTIONS] + [SETTINGS, "version"]
    problems += _unknown_keys(file, (), document, known)
    if document.get("version", VERSION) != VERSION:
        problems.append(UsageError(f"{file.where(('version',))}: this release reads version {VERSION}"))
    there = tuple(section for section in SECTIONS if section.name in document)
    entries = [entry for section in there for entry in _entries(file, section, problems)]
    settings = _settings(file, document.get(SETTINGS), problems)
    problems += _two_defaults(file, entries)
    raise_all(problems)
    return Declared(file, there, entries, settings)


def raise_all(problems: list[UsageError]) -> None:
    """Raises the first of several errors, with what the others say as its notes."""
    if problems:
        first, *others = problems
        for other in others:
            first.add_note(other.message)
        raise first


def _entries(file: YamlFile, section: Section, problems: list[UsageError]) -> Iterator[Entry]:
    found = file.document[section.name]
    if not _is_mapping(file, (section.name,), found, problems):
        return
    for name, body in (found or {}).items():
        spot = (section.name, name)
        if not _is_mapping(file, spot, body, problems):
            continue
        problems += _unknown_keys(file, spot, body or {}, section.keys)
        try:
            yield Entry(section, name, spot, _FIELDS[section.name](file, spot, dict(body or {})))
        except DataGuardianError as error:
            problems.append(
                UsageError(f"{file.where(spot)}: {section.noun.name} {name}: {error.message}", hint=error.hint)
            )


def _settings(file: YamlFile, found: object, problems: list[UsageError]) -> dict[str, dict[str, Any]]:
    if not _is_mapping(file, (SETTINGS,), found, problems):
        return {}
    given = cast("dict[str, Any]", found or {})
    return {key: value or {} for key, value in given.items() if _is_mapping(file, (SETTINGS, key), value, problems)}


def _source_fields(file: YamlFile, spot: Spot, body: dict[str, Any]) -> dict[str, Any]:
    from dataguardian.engines.registry import ENGINES

    return _with_address(file, spot, body, ENGINES, "connection_config")


def _storage_fields(file: YamlFile, spot: Spot, body: dict[str, Any]) -> dict[str, Any]:
    from dataguardian.storage.registry import STORAGES as ADAPTERS

    return _with_address(file, spot, body, ADAPTERS, "config")


def _with_address(
    file: YamlFile, spot: Spot, body: dict[str, Any], registry: Registry[Any], config: str
) -> dict[str, Any]:
    """Returns the fields, `url` resolved to type and configuration; what the configuration itself says wins."""
    given = body.get(config) or {}
    if not isinstance(given, dict):
        raise UsageError(f"{config} is no mapping")
    if "url" not in body:
        return {**body, **({config: given} if given else {})}
    url = body.pop("url")
    if not isinstance(url, str) or file.reference((*spot, "url")):
        raise UsageError("url is a plain text without ${…}", hint=f"write what is secret into {config}")
    kind, fields = address_config(registry, url)
    if body.get("type", kind) != kind:
        raise UsageError(f"url is the address of a {kind}, and type says {body['type']}")
    return {**body, "type": kind, config: fields | given}


def _job_fields(file: YamlFile, spot: Spot, body: dict[str, Any]) -> dict[str, Any]:
    for key in ("datasource", "storage_location"):
        if not isinstance(body.get(key), str | None):
            raise UsageError(f"{key} is not a name")
    for key in ("retention_policy", "backup_options"):
        if not isinstance(body.get(key), dict | None):
            raise UsageError(f"{key} is no mapping")
    targets = (body.get("backup_options") or {}).get(TARGETS)
    if targets is not None and not (isinstance(targets, list) and all(isinstance(name, str) for name in targets)):
        raise UsageError(f"{TARGETS} is no list of names of storage locations")
    if "datasource" in body and body["datasource"] is None:
        raise UsageError(f"line {file.line((*spot, 'datasource'))}: a job needs a datasource")
    return body


_FIELDS: Mapping[str, Callable[[YamlFile, Spot, dict[str, Any]], dict[str, Any]]] = {
    DATASOURCES.name: _source_fields,
    STORAGES.name: _storage_fields,
    JOBS.name: _job_fields,
}


def _is_mapping(file: YamlFile, spot: Spot, value: object, problems: list[UsageError]) -> bool:
    """Notes a problem unless `value` is a mapping, or empty."""
    if value is None or (isinstance(value, dict) and not isinstance(value, Unset)):
        return True
    problems.append(UsageError(f"{file.where(spot)}: {'.'.join(map(str, spot))} is no mapping"))
    return False


def _unknown_keys(
    file: YamlFile, spot: Spot, body: dict[str, Any], known: tuple[str, ...] | list[str]
) -> list[UsageError]:
    return [
        UsageError(
            f"{file.where((*spot, key))}: {'.'.join(map(str, (*spot, key)))} is not known here",
            hint=f"known: {', '.join(known)}",
        )
        for key in body
        if key not in known
    ]


def _two_defaults(file: YamlFile, entries: list[Entry]) -> list[UsageError]:
    defaults = [entry for entry in entries if entry.fields.get("is_default") is True]
    return [entry.problem(file, f"{defaults[0].name} is the default already", "is_default") for entry in defaults[1:]]
