"""What the user reads: results and JSON on standard output, errors and warnings on standard error.

Text that came from outside (names, addresses, a manifest's warnings) may hold anything: control characters are made
visible before a terminal sees them, and passwords that were in the command's arguments never come out again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, TextIO

from dataguardian.domain.errors import DataGuardianError, StorageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_USERINFO = re.compile(r"://[^:@/]*:(.+)@", re.DOTALL)
_QUERY_PASSWORD = re.compile(r"[?&](?:[a-z_]*pass(?:word|wd)?|[a-z_]*secret[a-z_]*)=([^&]+)", re.IGNORECASE)
_MASK = "***"
_BARE_SECRET_LENGTH = 8
"""Shorter ones are also words of innocent text; they are only masked where they stand in an address."""
WIDTH_OF_A_PIPE = 10_000

_secrets: list[str] = []
_silenced: list[TextIO] = []


def remember_secrets_of(arguments: Iterable[str]) -> None:
    """Notes every password in the command's arguments, so that `clean` can take it out of any text."""
    from urllib.parse import unquote

    for argument in arguments:
        for found in [*_USERINFO.findall(argument), *_QUERY_PASSWORD.findall(argument)]:
            _secrets.extend({found, unquote(found)})
    _secrets.sort(key=len, reverse=True)


def visible(text: object) -> str:
    """Returns text whose control characters cannot steer a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def clean(text: object) -> str:
    """Returns text of an error or a warning: visible, and without any password that was in the arguments."""
    shown = visible(text)
    for secret in _secrets:
        shown = shown.replace(f":{secret}@", f":{_MASK}@")
        if len(secret) >= _BARE_SECRET_LENGTH:
            shown = shown.replace(secret, _MASK)
    return shown


def prepare_streams() -> None:
    """Lets names that are no valid text come out escaped instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@cache
def console(*, error: bool = False) -> Console:
    """Returns the terminal of standard output or standard error; lines stay whole when it is a pipe or a file."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            """Rich would end the process here, in the middle of a backup; whoever prints decides instead."""
            raise BrokenPipeError

    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_PIPE
    return Terminal(file=stream, width=width, highlight=False, markup=False, emoji=False)


def show(*renderables: RenderableType) -> None:
    """Prints on standard output; a reader that has gone away does not matter any more."""
    with _written(sys.stdout):
        for renderable in renderables:
            console().print(renderable, soft_wrap=isinstance(renderable, str) or hasattr(renderable, "plain"))


def show_fields(title: str, fields: Mapping[str, object], *, style: str = "bold green") -> None:
    """Prints a title and one `name  value` line per field, never wrapped, so that addresses can be copied."""
    from rich.text import Text

    width = max(map(len, fields))
    lines = [Text(visible(title), style=style)]
    for name, value in fields.items():
        lines.append(Text.assemble(("  " + name.ljust(width), "dim"), "  ", visible(value)))
    show(*lines)


def show_json(document: Mapping[str, object]) -> None:
    """Prints one JSON object, in ASCII, as the only thing on standard output."""
    with _written(sys.stdout):
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=True) + "\n")


def show_table(table: Table) -> None:
    """Prints a table, folded to fit a terminal; in a pipe or a file every row is one line."""
    with _written(sys.stdout):
        console().print(table)


def show_text(text: str) -> None:
    """Prints text of ours as it is: a file that somebody redirects."""
    with _written(sys.stdout):
        sys.stdout.write(text)


def warn(text: str) -> None:
    from rich.text import Text

    with _written(sys.stderr):
        console(error=True).print(Text.assemble(("warning: ", "bold yellow"), clean(text)), soft_wrap=True)


def note(text: str) -> None:
    """Prints a line of progress on standard error."""
    with _tried(sys.stderr):
        console(error=True).print(clean(text), soft_wrap=True)


def fail(error: DataGuardianError, *, as_json: bool) -> None:
    """Tells an error: as one JSON object on standard output, or as a message and a hint on standard error."""
    notes: Sequence[str] = getattr(error, "__notes__", [])
    if as_json and sys.stdout not in _silenced:
        show_json(_error_document(error, notes))
        return
    from rich.text import Text

    lines = [Text.assemble(("error: ", "bold red"), clean(error.message))]
    lines += [Text("       " + clean(note)) for note in notes]
    lines += [Text.assemble(("hint:  ", "bold cyan"), clean(error.hint))] if error.hint else []
    with _tried(sys.stderr):
        for line in lines:
            console(error=True).print(line, soft_wrap=True)


def _error_document(error: DataGuardianError, notes: Sequence[str]) -> dict[str, object]:
    details = {key: clean(value) if isinstance(value, str) else value for key, value in error.details.items()}
    extra: dict[str, object] = {"hint": clean(error.hint)} if error.hint else {}
    if notes:
        extra["notes"] = [clean(note) for note in notes]
    return error.as_json() | {"message": clean(error.message), "details": details | extra}


@contextlib.contextmanager
def _written(stream: TextIO) -> Iterator[None]:
    """Flushes at the end. A closed pipe is quiet; anything else (a full disk behind `>`) is an error."""
    try:
        yield
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
    except OSError as error:
        _silence(stream)
        raise StorageError(
            f"the work was done, but its result could not be written: {error.strerror}",
            hint="`dataguardian list STORAGE` shows what there is",
        ) from error


@contextlib.contextmanager
def _tried(stream: TextIO) -> Iterator[None]:
    """Flushes at the end. What goes wrong has nowhere to be told."""
    try:
        yield
        stream.flush()
    except OSError:
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Sends the rest nowhere, so that the interpreter's own flush at exit does not fail."""
    _silenced.append(stream)
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
