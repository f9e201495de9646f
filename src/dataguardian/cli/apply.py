"""`dataguardian apply -f dataguardian.yaml`: the service becomes as a file says."""

from __future__ import annotations

import json as json_lines
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataguardian.cli import output
from dataguardian.cli.client import Client, Document, ServiceUrl, connect
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.groups import Yes, confirmed
from dataguardian.cli.options import Json
from dataguardian.domain.errors import DataGuardianError, UsageError

if TYPE_CHECKING:
    from dataguardian.cli.plan import Change, Difference

STDIN = "-"
MAX_BYTES = 5_000_000

_SIGNS = {"create": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}
_DONE = {"create": "created", "change": "changed", "remove": "removed"}


def apply(
    *,
    file: Annotated[Path, typer.Option("--file", "-f", metavar="FILE", help="The file; `-` is standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the difference.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove what the file's sections leave out and nothing uses.")
    ] = False,
    yes: Yes = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Make the service as a file says. Shows the difference first, and asks."""
    from dataguardian.cli.declared import declared
    from dataguardian.cli.plan import make_plan
    from dataguardian.cli.yamlfile import read_yaml

    name, text, folder = _read(file)
    wanted = declared(read_yaml(name, text, folder))
    with connect(url, token_file) as client:
        plan = make_plan(client, wanted, prune=prune)
        if not json:
            _show(plan.changes, plan.warnings)
        if plan.changes and not dry_run:
            confirmed(f"make {_count(plan.changes)}?", yes=yes)
            _carry_out(client, plan.changes)
    applied = bool(plan.changes) and not dry_run
    if json:
        changes = [_document(change) for change in plan.changes]
        output.show_json({"changes": changes, "applied": applied, "warnings": plan.warnings})
    elif applied:
        output.show(f"done: {_count(plan.changes)}")


def _read(file: Path) -> tuple[str, str, Path]:
    """Returns the file's name, text and folder. Raises UsageError."""
    if str(file) == STDIN:
        return "standard input", sys.stdin.read(MAX_BYTES), Path.cwd()
    try:
        with file.open(encoding="utf-8") as opened:
            return str(file), opened.read(MAX_BYTES), file.parent
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror}", hint="`dataguardian export` writes such a file"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text") from error


def _carry_out(client: Client, changes: Sequence[Change]) -> None:
    """Does everything in order. What is refused is told with what was done before it; applying again goes on."""
    created: dict[tuple[str, str], str] = {}
    done: list[str] = []
    for change in changes:
        try:
            row = _do(client, change, created)
        except DataGuardianError as error:
            for line in done:
                error.add_note(f"done before that: {line}")
            error.add_note(f"while the {change.noun} {change.name} was to be {_DONE[change.action]}")
            error.hint = error.hint or "put it right and apply again: what is done already is skipped"
            raise
        if change.action == "create":
            created[change.name, change.noun] = row["id"]
        done.append(f"{change.noun} {change.name} is {_DONE[change.action]}")


def _do(client: Client, change: Change, created: dict[tuple[str, str], str]) -> Document:
    from dataguardian.cli.plan import SETTING_PATH, party_noun

    if change.section is None:
        return client.put(f"{SETTING_PATH}/{change.name}", {"value": change.fields["value"]})
    noun = change.section.noun
    if change.action == "remove":
        client.delete(noun.of(str(change.row_id)))
        return {}
    parties = {field: created[name, party_noun(field)] for field, name in change.parties.items()}
    if change.targets:
        ids = [known or created[name, party_noun("storage_location_id")] for name, known in change.targets.items()]
        change.fields["backup_options"] = change.fields.get("backup_options", {}) | {"storage_targets": ids}
    if change.action == "create":
        return client.post(noun.path, {"name": change.name, **change.fields, **parties})
    touched = {difference.field.partition(".")[0] for difference in change.differences}
    body = {key: value for key, value in change.fields.items() if key in touched}
    return client.put(noun.of(str(change.row_id)), body | parties)


def _count(changes: Sequence[Change]) -> str:
    return "1 change" if len(changes) == 1 else f"{len(changes)} changes"


def _show(changes: Sequence[Change], warnings: Sequence[str]) -> None:
    from rich.text import Text

    for warning in warnings:
        output.warn(warning)
    if not changes:
        output.show("nothing to change")
    for change in changes:
        sign, colour = _SIGNS[change.action]
        output.show(Text(output.visible(f"{sign} {change.noun} {change.name}"), style=f"bold {colour}"))
        for difference in change.differences:
            output.show(_line(difference, is_new=change.action == "create"))


def _line(difference: Difference, *, is_new: bool) -> Any:  # noqa: ANN401 -- rich's text
    from rich.text import Text

    pieces: list[Any] = [f"    {output.visible(difference.field)}: "]
    if not is_new:
        pieces += [(_value(difference.before), "red"), " -> "]
    return Text.assemble(*pieces, (_value(difference.after), "green"))


def _value(value: object) -> str:
    if value is None:
        return "(none)"
    return output.visible(value if isinstance(value, str) else json_lines.dumps(value, ensure_ascii=False))


def _document(change: Change) -> Document:
    return {
        "action": change.action,
        "kind": change.section.kind if change.section else "setting",
        "name": change.name,
        "differences": [
            {"field": difference.field, "before": difference.before, "after": difference.after}
            for difference in change.differences
        ],
    }
