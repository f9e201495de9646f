"""The error tree: drawn as it is, and usable by people and programs."""

from __future__ import annotations

import json
import pickle
import re

import pytest

from dataguardian.domain import errors
from dataguardian.domain.errors import DataGuardianError

LINE = re.compile(r"^    (?P<indent>[│├└─ ]*)(?P<name>[A-Z][A-Za-z]+Error) +(?P<exit>\d+|exit)\b(?P<note>.*)$")


def drawn_tree() -> dict[str, tuple[str | None, int]]:
    """Returns name -> (drawn parent, drawn exit code); the root's line carries the column heads instead of a code."""
    tree: dict[str, tuple[str | None, int]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := LINE.match(line):
            depth = len(match["indent"]) // 4
            path = [*path[:depth], match["name"]]
            code = 1 if match["exit"] == "exit" else int(match["exit"])
            tree[match["name"]] = (path[-2] if depth else None, code)
    return tree


def classes(root: type[DataGuardianError] = DataGuardianError) -> set[type[DataGuardianError]]:
    return {root}.union(*(classes(child) for child in root.__subclasses__() if child.__module__ == errors.__name__))


def test_the_drawn_tree_is_the_real_one() -> None:
    """Every class is drawn under its first base with its exit code, and nothing is drawn that is not there."""
    real = {
        kind.__name__: (None if kind is DataGuardianError else kind.__bases__[0].__name__, kind.exit_code)
        for kind in classes()
    }
    assert drawn_tree() == real


def test_a_second_base_is_told_in_the_drawing() -> None:
    """What is also an AccessError says so beside its line, because handlers of AccessError get it too."""
    for kind in classes():
        told = re.search(rf" {kind.__name__} .*\(also an? (\w+)\)", errors.__doc__ or "")
        assert [base.__name__ for base in kind.__bases__[1:]] == ([told[1]] if told else [])


def test_codes_are_unique_and_plain() -> None:
    """A program that reads `error` can tell every class from every other."""
    codes = [kind.code for kind in classes()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


@pytest.mark.parametrize("kind", sorted(classes(), key=str))
def test_every_error_survives_pickling_and_json(kind: type[DataGuardianError]) -> None:
    """An error comes back from a child process as it was: message, hint, details, exit code."""
    error = kind("it broke")
    error.hint, error.details = "mend it", {"path": "a/b", "size_bytes": 3}
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.hint, copy.details, copy.exit_code) == (
        "it broke",
        "mend it",
        error.details,
        error.exit_code,
    )
    assert json.loads(json.dumps(copy.as_json())) == {
        "error": kind.code,
        "message": "it broke",
        "details": {"path": "a/b", "size_bytes": 3, "hint": "mend it"},
    }


@pytest.mark.parametrize(("signum", "exit_code"), [(None, 1), (2, 130), (15, 143)])
def test_a_cancelled_run_exits_as_its_signal_says(signum: int | None, exit_code: int) -> None:
    """Shells know 128 + n as "ended by signal n", also after the error crossed a process border."""
    assert errors.CancelledError(signum=signum).exit_code == exit_code
    assert pickle.loads(pickle.dumps(errors.CancelledError(signum=signum))).exit_code == exit_code
