"""What the documents promise about the command line is what it does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from dataguardian.cli.app import program
from dataguardian.core.backup import DEFAULT_PART_SIZE_BYTES
from dataguardian.domain.sizes import parse_size
from tests.cli.program import Program

ROOT = Path(__file__).parents[2]
VERBS = get_command(program()).commands  # type: ignore[attr-defined] -- a group has them


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_option_is_documented(verb: str) -> None:
    """docs/cli.md has every verb with every option."""
    text = (ROOT / "docs" / "cli.md").read_text()
    assert f"dataguardian {verb} " in text
    verbs = [VERBS[verb], *getattr(VERBS[verb], "commands", {}).values()]
    parameters = [parameter for command in verbs for parameter in command.params]
    options = {name for entry in parameters for name in [*entry.opts, *entry.secondary_opts] if name.startswith("--")}
    assert {name for name in options if f"`{name}`" not in text} == set()


def test_the_default_part_size_is_the_documented_one() -> None:
    """The option's default, the pipeline's and the document's are one number."""
    (option,) = [parameter for parameter in VERBS["backup"].params if parameter.name == "part_size"]
    assert parse_size(str(option.default)) == DEFAULT_PART_SIZE_BYTES
    assert f"({option.default})" in (ROOT / "docs" / "cli.md").read_text()


@pytest.mark.parametrize(
    "document", ["README.md", "CHANGELOG.md", "docs/cli.md", "docs/service.md", "docs/configuration.md"]
)
def test_links_lead_somewhere(document: str) -> None:
    """Every relative link of a document names a file."""
    path = ROOT / document
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_is_short() -> None:
    """The first page is read on one screen or two."""
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


def test_the_tour_ends_with_equal_databases(program: Program) -> None:
    """What `make tour` runs: the restored sample equals the original, and the places that it prints are there."""
    command = [sys.executable, "-m", "dataguardian.cli.tour", str(program.home / "tour")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "equal, by an SQL dump of both" in told
    places = dict(line.split(maxsplit=1) for line in told.splitlines() if line.startswith(("  original", "  restored")))
    assert all(Path(place).exists() for place in places.values())
