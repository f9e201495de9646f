"""`dataguardian export`: what the service has, as a file that `apply` takes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from dataguardian.cli import output
from dataguardian.cli.client import Document, ServiceUrl, connect
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.options import Json
from dataguardian.domain.errors import UsageError

_HEADER = """\
# What DataGuardian is told to do: `dataguardian apply -f FILE` makes a service so.
# ${NAME} is a variable of the environment of whoever applies; where it is not set, a secret that is stored stays.
# A secret may also be {file: /path}. A plain ${ is written $${.
"""


def export(
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Instead of standard output.")] = None,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Write what the service has as a file for `apply`, without secrets and without backups."""
    from dataguardian.cli.plan import known

    with connect(url, token_file) as client:
        document = _document(known(client))
    if json:
        output.show_json(document)
        return
    text = _HEADER + _yaml(document)
    if out is None:
        output.show_text(text)
        return
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(out, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    output.note(f"written: {out}")


def _document(there: Any) -> Document:  # noqa: ANN401 -- Known, imported late
    from dataguardian.cli.declared import DATASOURCES, JOBS, SETTINGS, STORAGES, VERSION
    from dataguardian.cli.plan import guards_itself

    own = guards_itself(there)
    variables = _Variables()
    jobs = {name: row for name, row in there.rows[JOBS.name].items() if name not in own[JOBS.name]}
    used = {row["storage_location_id"] for row in jobs.values()}
    used |= {target for row in jobs.values() for target in row["backup_options"].get("storage_targets") or ()}
    sources = {name: row for name, row in there.rows[DATASOURCES.name].items() if name not in own[DATASOURCES.name]}
    storages = {
        name: row
        for name, row in there.rows[STORAGES.name].items()
        if name not in own[STORAGES.name] or row["id"] in used
    }
    document = {
        "version": VERSION,
        DATASOURCES.name: {name: _source(row, variables) for name, row in sources.items()},
        STORAGES.name: {name: _storage(row, variables) for name, row in storages.items()},
        JOBS.name: {name: _job(row, there, variables) for name, row in jobs.items()},
        SETTINGS: {
            key: variables.hidden(setting["value"], (key,))
            for key, setting in there.settings.items()
            if setting["updated_at"]
        },
    }
    return {key: value for key, value in document.items() if value}


def _source(row: Document, variables: _Variables) -> Document:
    entry: Document = {"type": row["type"]}
    entry["connection_config"] = variables.hidden(row["connection_config"], (row["name"],))
    entry |= {} if row["enabled"] else {"enabled": False}
    entry |= {} if row["production"] else {"production": False}
    return entry | ({"tags": _escaped(row["tags"])} if row["tags"] else {})


def _storage(row: Document, variables: _Variables) -> Document:
    entry: Document = {"type": row["type"], "config": variables.hidden(row["config"], (row["name"],))}
    return entry | ({"is_default": True} if row["is_default"] else {})


def _job(row: Document, there: Any, variables: _Variables) -> Document:  # noqa: ANN401 -- as above
    entry: Document = {"datasource": there.name_of(row["datasource_id"])}
    if row["storage_location_id"]:
        entry["storage_location"] = there.name_of(row["storage_location_id"])
    entry["schedule_cron"] = row["schedule_cron"]
    entry["schedule_timezone"] = row["schedule_timezone"]
    entry |= {} if row["enabled"] else {"enabled": False}
    entry["retention_policy"] = row["retention_policy"]
    options = _given(row["backup_options"])
    if "storage_targets" in options:
        options["storage_targets"] = [there.name_of(target) for target in options["storage_targets"]]
    hidden = variables.hidden(options, (row["name"],))
    return {**{key: _escaped(value) for key, value in entry.items()}, "backup_options": hidden}


def _given(options: Document) -> Document:
    """Returns the options that say something, those of an option too."""
    there = {key: _given(value) if isinstance(value, dict) else value for key, value in options.items()}
    return {key: value for key, value in there.items() if value not in (None, [])}


class _Variables:
    """Names for secrets, each used once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def hidden(self, value: Any, path: tuple[str, ...]) -> Any:  # noqa: ANN401 -- any JSON
        """Returns the value with a variable in the place of every masked secret."""
        from dataguardian.service.secrets import MASK

        if value == MASK:
            return "${" + self._name(path) + "}"
        if isinstance(value, dict):
            return {key: self.hidden(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.hidden(item, (*path, str(place))) for place, item in enumerate(value, start=1)]
        return _escaped(value)

    def _name(self, path: tuple[str, ...]) -> str:
        words = [re.sub(r"[^A-Za-z0-9]+", "_", word).strip("_").upper() for word in path]
        base = "_".join(word for word in words if word)
        base = base if base and not base[0].isdigit() else f"SECRET_{base}"
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name


def _escaped(value: Any) -> Any:  # noqa: ANN401 -- any JSON
    """Returns the value with every `${` that is plain text written as such."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def _yaml(document: Document) -> str:
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)
    return text
