"""Secrets on their way in and out: masked for people, and a mask that comes back keeps what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from dataguardian.domain.errors import UsageError

MASK = "**********"
"""What an answer shows instead of a secret; pydantic's own, so that no field needs special care."""


def revealed(model: BaseModel, *, keep_none: bool = False) -> dict[str, Any]:
    """Returns a configuration as plain JSON in clear: with its secrets, and without what was not given."""
    document: dict[str, Any] = _plain(model.model_dump(mode="python", exclude_none=not keep_none))
    return document


def masked(model: BaseModel) -> dict[str, Any]:
    """Returns a configuration as it may be shown."""
    return model.model_dump(mode="json", exclude_none=True)


def keep_masked(sent: Mapping[str, Any], stored: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """Returns `sent` with every mask replaced by what is stored at its place; raises UsageError when nothing is."""
    return {key: _unmasked(value, stored.get(key), f"{where}.{key}" if where else key) for key, value in sent.items()}


def _unmasked(value: Any, stored: Any, where: str) -> Any:  # noqa: ANN401 -- plain JSON
    if value == MASK:
        if stored is None:
            raise UsageError(f"{where} holds the mask, but nothing is stored there", hint="send the secret itself")
        return stored
    if isinstance(value, Mapping):
        return keep_masked(value, stored if isinstance(stored, Mapping) else {}, where=where)
    if isinstance(value, list):
        kept = stored if isinstance(stored, list) else []
        kept = [*kept, *([None] * len(value))]
        return [_unmasked(item, kept[number], f"{where}.{number}") for number, item in enumerate(value)]
    return value


def _plain(value: Any) -> Any:  # noqa: ANN401 -- plain JSON comes out
    if isinstance(value, SecretStr | SecretBytes):
        text = value.get_secret_value()
        return text.decode() if isinstance(text, bytes) else text
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return to_jsonable_python(value)
