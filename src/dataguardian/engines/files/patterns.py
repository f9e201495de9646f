"""Include and exclude patterns: the rules of gitignore(5), as docs/patterns.md explains them.

Written here because the translation that the `pathspec` package offers differs from git where it matters for a backup:
`foo` also matches a file called "foo" plus a newline, and `a/**` also matches the folder `a` itself. The tests compare
this module with `git check-ignore`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dataguardian.domain.errors import UsageError

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "\\x21-\\x7e",
    "lower": "a-z",
    "print": "\\x20-\\x7e",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t\\n\\r\\x0b\\x0c",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
_NEVER = "(?!)"


class _BadPatternError(ValueError):
    """The pattern can never match anything; its text says why."""


@dataclass(frozen=True)
class _Rule:
    regex: re.Pattern[str]
    negated: bool
    folders_only: bool
    by_name: bool
    """Without a slash before its end a pattern is compared with the last name of a path, else with all of it."""


class Patterns:
    """An ordered list of patterns, of which the last one that matches decides."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Raises UsageError for a pattern that could never match, because ignoring it would surprise."""
        rules = [_parse(line) for line in lines]
        self._rules = [rule for rule in reversed(rules) if rule is not None]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def match(self, path: str, *, is_dir: bool) -> bool:
        """Tells whether `path`, relative and without a slash at its end, matches by itself; parents are not asked."""
        name = path.rpartition("/")[2]
        for rule in self._rules:
            if rule.folders_only and not is_dir:
                continue
            if rule.regex.fullmatch(name if rule.by_name else path):
                return not rule.negated
        return False


def _parse(line: str) -> _Rule | None:
    """Returns None for blank lines and comments."""
    pattern = _without_trailing_spaces(line)
    if not pattern or pattern.startswith("#"):
        return None
    negated = pattern.startswith("!")
    pattern = pattern[negated:]
    folders_only = pattern.endswith("/")
    pattern = pattern[: len(pattern) - folders_only]
    by_name = "/" not in pattern
    try:
        if not pattern:
            raise _BadPatternError("it names nothing")  # noqa: TRY301 -- the same answer as for the translator's
        regex = re.compile(_translate(pattern.removeprefix("/")), re.DOTALL)
    except _BadPatternError as error:
        raise UsageError(
            f"the pattern {line!a} can never match: {error}",
            hint="docs/patterns.md explains patterns; a backslash makes the next character literal",
            pattern=ascii(line),
        ) from error
    return _Rule(regex, negated, folders_only, by_name)


def _without_trailing_spaces(line: str) -> str:
    stripped = line.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if backslashes % 2 and stripped != line else stripped


def _translate(glob: str) -> str:
    """Returns a regular expression, for fullmatch with DOTALL, of a glob in which `*` and `?` stop at slashes."""
    pieces = []
    at = 0
    while at < len(glob):
        piece, at = _translate_one(glob, at)
        pieces.append(piece)
    return "".join(pieces)


def _translate_one(glob: str, at: int) -> tuple[str, int]:
    """Returns the expression for what begins at `at`, and where the rest begins."""
    char = glob[at]
    if char == "*":
        return _stars(glob, at)
    if char == "?":
        return "[^/]", at + 1
    if char == "[":
        return _bracket(glob, at)
    if char == "\\":
        return re.escape(_escaped(glob, at)), at + 2
    return re.escape(char), at + 1


def _escaped(glob: str, at: int) -> str:
    if at + 1 == len(glob):
        raise _BadPatternError("it ends with a lone backslash")
    return glob[at + 1]


def _stars(glob: str, at: int) -> tuple[str, int]:
    end = at
    while end < len(glob) and glob[end] == "*":
        end += 1
    whole_segment = end - at > 1 and (at == 0 or glob[at - 1] == "/") and glob[end : end + 1] in ("", "/")
    if not whole_segment:
        return "[^/]*", end
    return (".*", end) if end == len(glob) else ("(?:.*/)?", end + 1)


def _bracket(glob: str, at: int) -> tuple[str, int]:
    start = at + 1
    negated = glob[start : start + 1] in ("!", "^")
    start += negated
    members = []
    end = start
    while (member := _bracket_member(glob, end, first=end == start)) is not None:
        text, end = member
        members.append(text)
    inside = "".join(members)
    if negated:
        return f"[^/{inside}]", end + 1
    return (f"(?!/)[{inside}]" if inside else _NEVER), end + 1


def _bracket_member(glob: str, at: int, *, first: bool) -> tuple[str, int] | None:
    """Returns one member of a bracket expression and where the next begins; None at the closing bracket."""
    if at >= len(glob):
        raise _BadPatternError("a [ is not closed")
    if glob[at] == "]" and not first:
        return None
    if glob.startswith("[:", at) and (end := glob.find(":]", at)) > 0:
        return _named_class(glob[at + 2 : end]), end + 2
    low, at = _bracket_char(glob, at)
    if glob[at : at + 1] != "-" or glob[at + 1 : at + 2] in ("", "]"):
        return re.escape(low), at
    high, at = _bracket_char(glob, at + 1)
    return (f"{re.escape(low)}-{re.escape(high)}" if low <= high else ""), at


def _bracket_char(glob: str, at: int) -> tuple[str, int]:
    return (_escaped(glob, at), at + 2) if glob[at] == "\\" else (glob[at], at + 1)


def _named_class(name: str) -> str:
    if name not in _CLASSES:
        raise _BadPatternError(f"there is no class [:{name}:]")
    return _CLASSES[name]
