"""Configurations of sources and storages as the command line takes them: an address, or a type and its fields."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataguardian.cli import output
from dataguardian.cli.options import password_from
from dataguardian.domain.errors import UsageError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from dataguardian.registry import AdapterConfig, Registry

PASSWORD_VARIABLE = "DATAGUARDIAN_PASSWORD"  # noqa: S105 -- the name of a variable
STDIN = "-"

Config = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="A field of the configuration; KEY=@FILE reads it from a file, KEY=@- from standard input. "
        "May be repeated.",
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The configuration's fields as one JSON object.", exists=True)
]
Unset = Annotated[list[str] | None, typer.Option(metavar="KEY", help="Remove a field. May be repeated.")]
TypeName = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Instead of an address.")]
SecretFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help=f"The password is the first line of FILE, or of standard input for `-`. Else: ${PASSWORD_VARIABLE}.",
    ),
]


def new_config(
    registry: Registry[Any], address: str | None, type_name: str | None, fields: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Returns type and fields of an address, or of a type, with `fields` on top. Raises UsageError."""
    if (address is None) == (type_name is None):
        raise UsageError("give an address, or --type with --config", hint="--help shows both")
    if address is None:
        return str(type_name), dict(fields)
    kind, config = address_config(registry, address)
    return kind, {**config, **fields}


def address_config(registry: Registry[Any], address: str) -> tuple[str, dict[str, Any]]:
    """Returns the type and the fields that an address means, its password in clear. Raises UsageError."""
    from dataguardian.domain.urls import parse_url
    from dataguardian.service.secrets import revealed

    config: AdapterConfig = registry.config_from_url(parse_url(address))
    document = revealed(config)
    return document.pop("type"), document


def given_fields(pairs: Sequence[str] | None, file: Path | None, unset: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns the fields of --config, --config-file and --unset. Raises UsageError, which repeats no value."""
    fields = _json_object(file) if file is not None else {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError("--config takes KEY=VALUE", hint="such as --config host=db.example.org")
        fields[key] = _value(key, value)
    return fields | dict.fromkeys(unset or ())


def with_password(
    registry: Registry[Any], kind: str, fields: Mapping[str, Any], file: Path | None, *, from_environment: bool
) -> dict[str, Any]:
    """Returns the fields with the password of --password-file, else their own, else the environment's."""
    takes_one = "password" in registry.by_type(kind).config.model_fields
    if file is not None:
        if not takes_one:
            raise UsageError(f"{kind} takes no password", hint="leave --password-file out")
        return {**fields, "password": _read_secret(file).get_secret_value()}
    inherited = os.environ.get(PASSWORD_VARIABLE)
    if from_environment and takes_one and inherited and fields.get("password") is None:
        return {**fields, "password": inherited}
    return dict(fields)


def _read_secret(file: Path) -> SecretStr:
    from pydantic import SecretStr

    if str(file) == STDIN:
        line = sys.stdin.readline().rstrip("\r\n")
        if not line:
            raise UsageError("there is no password on standard input", hint="its first line is the password")
        return SecretStr(line)
    password = password_from(file)
    assert password is not None  # noqa: S101 -- a file was given
    return password


def _value(key: str, text: str) -> Any:  # noqa: ANN401 -- a JSON value
    """Returns a field's value: text, which the service reads as the field's type, or JSON for lists and objects."""
    if text.startswith("@"):
        return _read_text(text[1:], key)
    if not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"the value of {key} begins like JSON and is none") from error


def _read_text(name: str, key: str) -> str:
    try:
        text = sys.stdin.read() if name == STDIN else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the file {name} for {key} cannot be read: {reason}") from error
    return text.removesuffix("\n").removesuffix("\r")


def _json_object(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{file} is not JSON") from error
    if not isinstance(document, dict):
        raise UsageError(f"{file} does not hold one JSON object", hint='such as {"host": "db.example.org"}')
    return document


def show_config(config: Mapping[str, Any]) -> dict[str, object]:
    """Returns a configuration's fields as lines of a display."""
    return {
        f"  {key}": value if isinstance(value, str) else output.visible(json.dumps(value))
        for key, value in config.items()
    }
