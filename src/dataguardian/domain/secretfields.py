"""Which fields of a configuration are secret: those whose type is SecretStr or SecretBytes, wherever they stand.

Everything that keeps, shows or sends configurations asks here, so a new adapter has nothing to do but to use the type.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, SecretBytes, SecretStr

from dataguardian.domain.errors import UsageError

Path = tuple[str, ...]
"""Names of fields, keys of objects and numbers of list items, from the outside in."""

_NAMED_LIKE_SECRETS = re.compile(
    r"(^|_)(pass(word|wd|phrase|code)?|pwd|secrets?|tokens?|credentials?|(api|account|app|application|private"
    r"|secret|customer|encryption|signing|shared|auth|master|storage)_?key|sas|cookie|identity)(_|$)",
    re.IGNORECASE,
)
_NAMES_SOMETHING_ELSE = re.compile(
    r"_(id|file|path|name|names|type|format|seconds|minutes|days|count|url)$", re.IGNORECASE
)
"""A key's id, or where a secret lies, is none; an address that holds one is found by its password."""
_ADDRESS_WITH_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s@]*:[^/?#\s@]+@")

UNKNOWN = object()
"""The type of a document whose adapter is not installed: each of its texts may be a secret."""


@dataclass(frozen=True)
class Leaf:
    """A field, item or value of a configuration's type. `path` has `*` for what may be many."""

    path: Path
    secret: bool


def leaves(annotation: Any, path: Path = ()) -> Iterator[Leaf]:  # noqa: ANN401 -- a type
    """Yields every leaf of a type. Raises UsageError for secrets inside a shape that is not looked into."""
    if _is_secret(annotation):
        yield Leaf(path, secret=True)
        return
    parts = list(_parts(annotation))
    if not parts and annotation is not types.NoneType:
        _refuse_hidden(annotation, path)
        yield Leaf(path, secret=False)
    for part, step in parts:
        yield from leaves(part, (*path, *step))


def _parts(annotation: Any) -> Iterator[tuple[Any, Path]]:  # noqa: ANN401 -- a type
    """Yields the types that a type is made of, each with the step that leads to it; nothing for a leaf."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield arguments[0], ()
    elif origin in (Union, types.UnionType):
        yield from ((member, ()) for member in arguments)
    elif _is_model(annotation):
        yield from ((field.annotation, (name,)) for name, field in annotation.model_fields.items())
    elif _is_mapping(origin):
        yield arguments[1], ("*",)
    elif _is_list(origin):
        yield from ((member, ("*",)) for member in arguments if member is not Ellipsis)


def check_names(model: type[BaseModel]) -> None:
    """Raises UsageError that names a field which is called like a secret and is none by its type."""
    for leaf in leaves(model):
        if leaf.secret or not (names := [name for name in leaf.path if name != "*"]):
            continue
        name = names[-1]
        if _NAMED_LIKE_SECRETS.search(name) and not _NAMES_SOMETHING_ELSE.search(name):
            raise UsageError(
                f"the field {'.'.join(leaf.path)} of {model.__name__} is called like a secret and is none",
                hint="make it a pydantic SecretStr: that type decides what is sealed and masked",
            )


def secret_paths(annotation: Any, value: Any, path: Path = ()) -> Iterator[Path]:  # noqa: ANN401 -- a type, plain JSON
    """Yields the places of the secrets in a document of that type, which need not be valid.

    Texts that are addresses with a password are secrets wherever they stand.
    """
    if isinstance(value, str):
        if annotation is UNKNOWN or any(_is_secret(item) for item in _alternatives(annotation)) or has_password(value):
            yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from secret_paths(_member(annotation, value, str(key)), item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from secret_paths(_item(annotation, number), item, (*path, str(number)))


def has_password(text: str) -> bool:
    """Whether a text is an address that names a user and a password."""
    return _ADDRESS_WITH_PASSWORD.match(text) is not None


def _member(annotation: Any, document: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 -- types
    """Returns the type of an object's value; of several models the one that the document's `type` names, else all."""
    if annotation is UNKNOWN:
        return UNKNOWN
    found = [
        item.model_fields[key].annotation if _is_model(item) else get_args(item)[1]
        for item in _alternatives(annotation)
        if (_is_model(item) and key in item.model_fields and _fits(item, document)) or _is_mapping(get_origin(item))
    ]
    return _any_of(found)


def _item(annotation: Any, number: int) -> Any:  # noqa: ANN401 -- types
    """Returns the type of a list's item."""
    if annotation is UNKNOWN:
        return UNKNOWN
    found = []
    for item in _alternatives(annotation):
        members = [member for member in get_args(item) if member is not Ellipsis]
        if _is_list(get_origin(item)) and members:
            found.append(members[min(number, len(members) - 1)])
    return _any_of(found)


def _alternatives(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 -- types
    """Yields the types that a value may have, of a union each."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _alternatives(member)
    else:
        yield annotation


def _any_of(found: list[Any]) -> Any:  # noqa: ANN401 -- types
    return Union[tuple(found)] if found else None  # noqa: UP007 -- made at run time


def _fits(model: type[BaseModel], document: Mapping[str, Any]) -> bool:
    """Whether a document may be of this model: every Literal that it gives is one of the field's."""
    return all(
        document[name] in get_args(field.annotation)
        for name, field in model.model_fields.items()
        if name in document and get_origin(field.annotation) is Literal
    )


def _is_secret(annotation: Any) -> bool:  # noqa: ANN401 -- a type
    return isinstance(annotation, type) and issubclass(annotation, SecretStr | SecretBytes)


def _is_model(annotation: Any) -> bool:  # noqa: ANN401 -- a type
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_mapping(origin: Any) -> bool:  # noqa: ANN401 -- a type
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_list(origin: Any) -> bool:  # noqa: ANN401 -- a type
    return isinstance(origin, type) and issubclass(origin, list | tuple | set | frozenset)


def _refuse_hidden(annotation: Any, path: Path) -> None:  # noqa: ANN401 -- a type
    """A secret in a dataclass, a TypedDict or some other generic would be stored in clear."""
    if isinstance(annotation, TypeVar):
        return
    inner = list(get_args(annotation)) if get_origin(annotation) is not Literal else []
    if isinstance(annotation, type) and getattr(annotation, "__annotations__", None):
        inner += get_type_hints(annotation).values()
    if any(leaf.secret for item in inner if item is not annotation for leaf in leaves(item, path)):
        raise UsageError(
            f"the field {'.'.join(path)} hides a secret inside a {annotation}",
            hint="secrets are found in pydantic models, lists, tuples, sets, dicts and unions",
        )
