"""`dataguardian audit`: who did what to which thing, from where; its export, and checks of its chain."""

from __future__ import annotations

import json as json_lines
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataguardian.cli import look, output
from dataguardian.cli.client import Document, ServiceUrl, connect
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.groups import group
from dataguardian.cli.options import From, Json, Until
from dataguardian.domain.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from dataguardian.domain.auditlog import Chain, Finding

PATH = "/api/audit"
HEAD_HEADER = "X-Audit-Head"
LONGEST_LINE = 4_000_000
"""Characters: far more than the service writes into a line; a file that is none of ours may be one line."""
SHOWN_CHANGES = 4

audit = group("Who did what to which thing, from where.")

Anchors = Annotated[
    list[str] | None,
    typer.Option("--anchor", metavar="NUMBER:HASH", help="The hash of a line, as it was kept elsewhere. Repeatable."),
]


@audit.command("list")
def list_(
    *,
    actor: Annotated[str | None, typer.Option(metavar="NAME", help="Only what NAME did.")] = None,
    action: Annotated[str | None, typer.Option(metavar="ACTION", help="Only this, such as datasource.update.")] = None,
    entity_type: Annotated[str | None, typer.Option(metavar="TYPE", help="Only about such things.")] = None,
    entity_id: Annotated[str | None, typer.Option(metavar="ID", help="Only what was done to this.")] = None,
    since: From = None,
    to: Until = None,
    page: Annotated[int, typer.Option(min=1, help="Which page.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many on a page.")] = 20,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """List the audit log, newest first."""
    asked = {"actor": actor, "action": action, "entity_type": entity_type, "entity_id": entity_id, "to": to}
    with connect(url, token_file) as client:
        found = client.get(PATH, page=page, limit=limit, from_=since, **asked)
    if json:
        output.show_json(found)
    elif not found["data"]:
        output.show("nothing")
    else:
        look.show_table(
            ["LINE", "WHEN", "WHO", "FROM", "DID", "TO", "CHANGES"], map(_row, found["data"]), right=["LINE"]
        )


@audit.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; it is written whole or not at all.")],
    *,
    after: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Only lines that follow this one.")] = 0,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Write the audit log as JSON lines, checked on the way: anybody can check that file again, with `verify`."""
    from dataguardian.domain.auditlog import Chain, read_anchors

    with connect(url, token_file) as client, client.stream(f"{PATH}/export", after=after) as answer:
        chain = Chain(read_anchors([answer.headers[HEAD_HEADER]]), whole=after == 0)
        _write(file, _looked_at(answer.iter_lines(), chain))
        finding = chain.finding()
    _tell(finding, f"written: {file}", as_json=json)


@audit.command()
def verify(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="What `export` wrote; without it, the log of the service.")
    ] = None,
    *,
    anchor: Anchors = None,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Check that every line follows the one before it, and name the first that does not."""
    from dataguardian.domain.auditlog import Chain, Finding, read_anchors

    try:
        anchors = read_anchors(anchor or [])
    except ValueError as error:
        raise UsageError(str(error), hint="an export and the service's log print anchors") from error
    if file is None:
        with connect(url, token_file) as client:
            found = client.get_patiently(f"{PATH}/verify", anchor=anchor or None)
        first = min(1, found["lines"])
        finding = Finding(found["lines"], first, found["last"], found["head"], found["broken"], found["problem"])
    else:
        chain = Chain(anchors, whole=False)
        for _ in _looked_at(_lines_of(file), chain):
            if chain.problem is not None:
                break
        finding = chain.finding()
    _tell(finding, "the audit log is whole", as_json=json)


def _tell(finding: Finding, title: str, *, as_json: bool) -> None:
    """Shows what was found; raises IntegrityError for a chain that is broken."""
    if finding.problem is not None:
        raise IntegrityError(
            f"the audit log is not what was written: {finding.problem}",
            hint="compare with an earlier export or a backup of the catalogue; docs/audit.md says what it means",
            broken=finding.broken,
            lines=finding.lines,
        )
    anchor = f"{finding.last}:{finding.head}"
    if as_json:
        document = {"ok": True, "lines": finding.lines, "first": finding.first, "last": finding.last}
        output.show_json(document | {"head": finding.head, "anchor": anchor})
        return
    facts = {"lines": finding.lines, "from": finding.first, "to": finding.last, "anchor": anchor}
    if finding.first > 1:
        facts["note"] = "lines before the first were not checked"
    output.show_fields(title, facts)


def _looked_at(lines: Iterable[str], chain: Chain) -> Iterator[str]:
    """Yields lines as they were sent, after the chain has seen them: those of a broken log are evidence, too."""
    for text in lines:
        try:
            line = json_lines.loads(text)
        except (ValueError, RecursionError):
            line = None
        chain.add(line)
        yield text


def _lines_of(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            while text := lines.readline(LONGEST_LINE):
                yield text
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error


def _write(file: Path, lines: Iterable[str]) -> None:
    """Writes a file that only its owner may read, whole or not at all."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.writelines(f"{line}\n" for line in lines)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _row(line: Document) -> list[Any]:
    thing = " ".join(filter(None, (line["entity_type"], line["entity_name"] or (line["entity_id"] or "")[:8])))
    who = line["actor_name"] if line["actor_kind"] == "user" else f"{line['actor_name']} ({line['actor_kind']})"
    cells = [line["number"], look.when(line["created_at"]), who, line["address"], line["action"], thing]
    return [*(look.NOTHING if cell in (None, "") else str(cell) for cell in cells), _changes(line["changes"])]


def _changes(changes: Document) -> str:
    told = [f"{name}: {_value(value)}" for name, value in list(changes.items())[:SHOWN_CHANGES]]
    more = len(changes) - len(told)
    return "; ".join([*told, f"{more} more"] if more else told)


def _value(value: Any) -> str:  # noqa: ANN401 -- plain JSON
    pair = value if isinstance(value, list) and len(value) == 2 else [None, value]  # noqa: PLR2004 -- before and after
    before, after = ("" if item is None else _short(item) for item in pair)
    return f"{before} -> {after}" if before else after


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json_lines.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"  # noqa: PLR2004 -- of a table's cell
