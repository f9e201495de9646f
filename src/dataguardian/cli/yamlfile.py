"""A YAML file whose every value knows its line, and whose secrets stand elsewhere.

`${NAME}` inside a text is the environment's variable, `$${` is a plain `${`, and `{file: /path}` in the place of a
value is that file's text. A variable that is not set (or empty) is not an error yet: `Unset` stands in its place,
because what is stored already may stay.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dataguardian.domain.errors import UsageError

Spot = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top."""

MAX_NODES = 100_000
"""Aliases can make a small file huge."""

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}
_TAGS = _PLAIN | {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "timestamp", "value", "merge")}
"""What is neither plain nor a collection stays the text that it is in the file."""


@dataclass(frozen=True)
class Unset:
    """Stands for a text whose variable is not set."""

    variable: str


@dataclass
class YamlFile:
    """`document` holds plain values with references resolved; `written` tells how a reference stands in the file."""

    name: str
    document: Any = None
    lines: dict[Spot, int] = field(default_factory=dict)
    written: dict[Spot, str] = field(default_factory=dict)

    def line(self, spot: Spot) -> int:
        """Returns the line of a value, or of the closest thing around it."""
        while spot and spot not in self.lines:
            spot = spot[:-1]
        return self.lines.get(spot, 1)

    def where(self, spot: Spot) -> str:
        return f"{self.name}:{self.line(spot)}"

    def reference(self, spot: Spot) -> str | None:
        """Returns how the value at `spot`, or something inside it, refers to a secret; None for plain values."""
        found = [text for place, text in self.written.items() if place[: len(spot)] == spot]
        return ", ".join(found) or None


class _Reader:
    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.file = YamlFile(name)
        self._folder = folder
        self._environment = environment
        self._nodes = 0
        self._open: list[int] = []

    def read(self, text: str) -> YamlFile:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            self.file.document = {} if node is None else self._value(loader, node, ())
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UsageError(f"{self.file.name}:{line}: this is not YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise UsageError(f"{self.file.name}: this is not YAML: it holds control characters") from error
        finally:
            loader.dispose()
        return self.file

    def _value(self, loader: yaml.SafeLoader, node: yaml.Node, spot: Spot) -> Any:  # noqa: ANN401 -- plain JSON, or Unset
        self._nodes += 1
        self.file.lines.setdefault(spot, node.start_mark.line + 1)
        if self._nodes > MAX_NODES or id(node) in self._open:
            raise UsageError(f"{self.file.where(spot)}: its aliases make too much of it")
        self._open.append(id(node))
        try:
            return self._resolved(loader, node, spot)
        finally:
            self._open.pop()

    def _resolved(self, loader: yaml.SafeLoader, node: yaml.Node, spot: Spot) -> Any:  # noqa: ANN401 -- as above
        if node.tag not in _TAGS:
            raise UsageError(f"{self.file.where(spot)}: the tag {node.tag} is not known here")
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)
            return self._from_file(node, spot) or self._mapping(loader, node, spot)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(loader, item, (*spot, place)) for place, item in enumerate(node.value)]
        value = loader.construct_object(node) if node.tag in _PLAIN else node.value
        return self._text(value, spot) if isinstance(value, str) else value

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, spot: Spot) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise UsageError(f"{self.file.where(spot)}: a key must be a plain text")
            key, place = str(key_node.value), (*spot, str(key_node.value))
            if key in found:
                line = key_node.start_mark.line + 1
                raise UsageError(
                    f"{self.file.name}:{line}: {key!r} is there twice; first in line {self.file.line(place)}"
                )
            self.file.lines[place] = key_node.start_mark.line + 1
            found[key] = self._value(loader, value_node, place)
        return found

    def _text(self, text: str, spot: Spot) -> str | Unset:
        missing: list[str] = []

        def value_of(match: re.Match[str]) -> str:
            name = match[1]
            if name is None:
                return "${"
            if not _VARIABLE.fullmatch(name):
                raise UsageError(
                    f"{self.file.where(spot)}: ${{{name}}} names no variable",
                    hint="write ${NAME}, or $${ for a plain ${",
                )
            self.file.written[spot] = text
            value = self._environment.get(name, "")
            missing.extend([] if value else [name])
            return value

        resolved = _REFERENCE.sub(value_of, text)
        return Unset(missing[0]) if missing else resolved

    def _from_file(self, node: yaml.MappingNode, spot: Spot) -> str | None:
        """Returns the text of `{file: /path}`; None for any other mapping."""
        pairs = [(key.value, value) for key, value in node.value]
        if len(pairs) != 1 or pairs[0][0] != "file" or not isinstance(pairs[0][1], yaml.ScalarNode):
            return None
        path = self._folder / str(pairs[0][1].value)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"{self.file.where(spot)}: {path} cannot be read: {reason}") from error
        text = text.removesuffix("\n").removesuffix("\r")
        if not text:
            raise UsageError(f"{self.file.where(spot)}: {path} is empty")
        self.file.written[spot] = f"{{file: {pairs[0][1].value}}}"
        return text


def read_yaml(name: str, text: str, folder: Path, environment: Mapping[str, str] | None = None) -> YamlFile:
    """Reads a file's text; paths in it are relative to `folder`. Raises UsageError that names the line."""
    return _Reader(name, folder, os.environ if environment is None else environment).read(text)


def unset_spots(value: object, spot: Spot = ()) -> Iterator[tuple[Spot, Unset]]:
    """Yields every place in a value where a variable is not set."""
    if isinstance(value, Unset):
        yield spot, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from unset_spots(item, (*spot, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from unset_spots(item, (*spot, place))
