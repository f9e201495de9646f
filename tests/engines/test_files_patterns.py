"""The documented patterns, run row by row, and compared with git itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataguardian.domain.errors import UsageError
from dataguardian.engines.files.patterns import Patterns
from dataguardian.engines.files.walk import Selection, Walk
from tests.conftest import require_tool

DOCUMENT = (Path(__file__).parents[2] / "docs" / "patterns.md").read_text()


def table(header: str) -> list[list[list[str]]]:
    """Rows of a documented table; a cell is the list of its `quoted` words."""
    body = DOCUMENT.split(header, 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[re.findall(r"`([^`]+)`", cell) for cell in re.split(r"\s\|", row.removeprefix("|"))] for row in body]


ONE = table("| pattern | matches | does not match |")
SEVERAL = table("| include | exclude | in the backup |")
TREE = DOCUMENT.split("```tree\n", 1)[1].split("```", 1)[0].split()


def matches(patterns: Patterns, path: str) -> bool:
    """The rule of git: a path matches when it does itself, or one of the folders around it."""
    names = path.rstrip("/").split("/")
    above = (patterns.match("/".join(names[:count]), is_dir=True) for count in range(1, len(names)))
    return any(above) or patterns.match("/".join(names), is_dir=path.endswith("/"))


def make_tree(root: Path, paths: list[str]) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).touch()


def selected(root: Path, include: list[str], exclude: list[str]) -> set[str]:
    walk = Walk(str(root), Selection(include, exclude))
    names = b"".join(walk.name_list()).split(b"\0")
    assert names[0] == b"./"
    assert names[-1] == b""
    assert not walk.failed
    found = {os.fsdecode(name.removeprefix(b"./")) for name in names[1:-1]}
    assert len(found) == len(names) - 2, "a name was listed twice"
    return found


@pytest.mark.parametrize("row", ONE, ids=lambda row: row[0][0])
def test_documented_pattern(row):
    """Every row of the first table of docs/patterns.md holds."""
    (pattern,), yes, no = row[0], row[1], row[2]
    assert [path for path in yes if not matches(Patterns([pattern]), path)] == []
    assert [path for path in no if matches(Patterns([pattern]), path)] == []


@pytest.mark.parametrize("row", SEVERAL, ids=lambda row: f"{row[0]} {row[1]}")
def test_documented_selection(row, tmp_path):
    """Every row of the second table of docs/patterns.md holds for the documented tree."""
    make_tree(tmp_path, TREE)
    assert selected(tmp_path, row[0], row[1]) == {path.rstrip("/") for path in row[2]}


def test_the_tables_were_found():
    """The document's tables are read, so that the tests above cannot pass by reading nothing."""
    assert len(ONE) > 15
    assert len(SEVERAL) > 5


@pytest.mark.parametrize("pattern", ["/", "!", "!/", "[ab", "x\\", "[[:nope:]]", "[a\\"])
def test_pattern_that_never_matches(pattern):
    """A pattern that could never match is refused, because an exclude without effect is a surprise."""
    with pytest.raises(UsageError) as caught:
        Patterns([pattern])
    assert ascii(pattern) in str(caught.value)


def test_a_newline_in_a_name_is_a_character():
    """The name "foo" plus a newline is another name than "foo", and a star spans newlines."""
    assert not Patterns(["foo"]).match("foo\n", is_dir=False)
    assert Patterns(["foo*"]).match("foo\nbar", is_dir=False)
    assert Patterns(["f?o"]).match("f\udcffo", is_dir=False)


NAMES = st.sampled_from(["a", "b", "ab", "a.b", "!a", "[a]", "b c", "-", "a\n", "#a", "a-b", "a\\b", "abab"])
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12)
PIECES = st.sampled_from(
    ["a", "b", "ab", "*", "?", "[ab]", "[!a]", "[a-b]", "[^b]", "[]a]", "\\a", "\\*", ".", "-", " ", "a "]
)
SEGMENTS = st.lists(PIECES, min_size=1, max_size=4).map("".join).filter(
    lambda text: text.strip() and "**" not in text
) | st.just("**")
GLOBS = st.tuples(
    st.sampled_from(["", "", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", "", "/"]),
).map("".join)


def ignored_by_git(root: Path, repository: Path, patterns: list[str], paths: list[str]) -> set[str]:
    (repository / "info" / "exclude").write_text("\n".join(patterns) + "\n")
    command = ["git", f"--git-dir={repository}", f"--work-tree={root}", "-c", "core.excludesFile=/dev/null"]
    command += ["-c", "core.ignoreCase=false", "check-ignore", "--no-index", "--stdin", "-z"]
    names = b"".join(os.fsencode(path) + b"\0" for path in paths)
    answer = subprocess.run(command, input=names, capture_output=True, cwd=root, check=False)
    assert answer.returncode in (0, 1), answer.stderr
    return {os.fsdecode(name) for name in answer.stdout.split(b"\0") if name}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    require_tool("git")
    folder = tmp_path_factory.mktemp("git") / "repository"
    subprocess.run(["git", "init", "-q", "--bare", str(folder)], check=True)
    (folder / "info").mkdir(exist_ok=True)
    return folder


@settings(max_examples=150, deadline=None)
@given(paths=PATHS, patterns=st.lists(GLOBS, min_size=1, max_size=4))
def test_include_selects_what_git_ignores(repository, paths, patterns):
    """On generated trees the include patterns select, and the exclude patterns leave out, just what git ignores."""
    root = Path(tempfile.mkdtemp(dir=repository.parent))
    try:
        for path in paths:
            if not any((root / parent).is_file() for parent in [path, *Path(path).parents]):
                make_tree(root, [path] if not (root / path).is_dir() else [])
        everything = [str(path.relative_to(root)) for path in root.rglob("*")]
        ignored = ignored_by_git(root, repository, patterns, everything)
        parents = {str(parent) for path in ignored for parent in Path(path).parents} - {"."}
        assert selected(root, patterns, []) == ignored | parents
        assert selected(root, [], patterns) == set(everything) - ignored
    finally:
        shutil.rmtree(root)
