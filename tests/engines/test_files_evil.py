"""Hand-made archives that try to leave the target folder: each is refused, by name, and nothing is written outside."""

# ruff: noqa: PTH115, PTH116, PTH208 -- os.listdir and os.stat compare with plain values

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from dataguardian.domain.errors import DataGuardianError, IntegrityError
from dataguardian.engines.files.inspect import ArchiveInspector
from tests.conftest import require_tool
from tests.engines.files_tools import restore

Member = tuple[str, bytes, str]
"""Name, kind and link target of an entry."""


def archive(*members: Member, pax: dict[str, str] | None = None) -> bytes:
    """Returns a well-formed archive; `pax` goes into the last entry's extended header."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, (name, kind, link) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, link, 0o755
            info.uid, info.gid = os.getuid(), os.getgid()
            content = b"evil" if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            if pax and number == len(members) - 1:
                info.pax_headers = pax
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


FILE, HARD, LINK, FOLDER, GNU_LONG = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, b"S"
TOP: Member = ("./", FOLDER, "")


@pytest.fixture
def target(tmp_path):
    require_tool("tar")
    (tmp_path / "inner").mkdir()
    (tmp_path / "victim").write_text("untouched")
    return tmp_path / "inner" / "target"


def cases(outside: Path) -> dict[str, tuple[str, bytes]]:
    """Archives by what they try, each with what the error must name."""
    victim = str(outside / "victim")
    return {
        "absolute name": (victim, archive(TOP, (victim, FILE, ""))),
        "dots": ("../../victim", archive(TOP, ("../../victim", FILE, ""))),
        "dots inside": ("a/../../x", archive(TOP, ("a", FOLDER, ""), ("a/../../x", FILE, ""))),
        "hard link, absolute": ("./h", archive(TOP, ("./h", HARD, victim))),
        "hard link, dots": ("./h", archive(TOP, ("./h", HARD, "../../victim"))),
        "through a link": ("./l/x", archive(TOP, ("./l", LINK, str(outside)), ("./l/x", FILE, ""))),
        "through a link inside": ("l/x", archive(TOP, ("d", FOLDER, ""), ("l", LINK, "d"), ("l/x", FILE, ""))),
        "folder through a link": ("l/x", archive(TOP, ("l", LINK, ".."), ("l/x", FOLDER, ""))),
        "over a link": ("l", archive(TOP, ("l", LINK, victim), ("l", FILE, ""))),
        "hard link through a link": ("h", archive(TOP, ("l", LINK, str(outside)), ("h", HARD, "l/victim"))),
        "through a hard link to a link": (
            "h/x",
            archive(TOP, ("l", LINK, str(outside)), ("h", HARD, "l"), ("h/x", FILE, "")),
        ),
        "spelled differently": (".//l/./x", archive(TOP, ("l", LINK, str(outside)), (".//l/./x", FILE, ""))),
        "name in the extended header": (victim, archive(TOP, ("good", FILE, ""), pax={"path": victim})),
        "link in the extended header": ("good", archive(TOP, ("good", HARD, "x"), pax={"linkpath": victim})),
        "sparse name": (
            "good",
            archive(
                TOP,
                ("good", FILE, ""),
                pax={"GNU.sparse.major": "1", "GNU.sparse.name": victim, "GNU.sparse.minor": "0"},
            ),
        ),
        "the target itself": ("./", archive(("./", LINK, str(outside)))),
        "unknown header": ("GNU.volume", archive(TOP, ("good", FILE, ""), pax={"GNU.volume.label": "x"})),
        "unknown kind": ("good", archive(TOP, ("good", GNU_LONG, ""))),
        "header of GNU's own format": ("@LongLink", gnu_archive()),
    }


def gnu_archive() -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("x" * 200))
    return raw.getvalue()


@pytest.mark.parametrize("case", sorted(cases(Path("/x"))))
@pytest.mark.parametrize("piece_bytes", [100, 1 << 20])
def test_evil_entry_is_refused(tmp_path, target, case, piece_bytes):
    """The entry is named, its surroundings stay untouched, and neither target nor staging folder appear."""
    name, data = cases(tmp_path)[case]
    pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]
    with pytest.raises(IntegrityError) as caught:
        restore(data, target)
    assert name in str(caught.value)
    assert (tmp_path / "victim").read_text() == "untouched"
    assert os.stat(tmp_path / "victim").st_nlink == 1
    assert sorted(os.listdir(tmp_path)) == ["inner", "victim"]
    assert os.listdir(target.parent) == []
    inspector = ArchiveInspector()
    with pytest.raises(IntegrityError):
        [inspector.feed(piece) for piece in pieces]


def test_tar_alone_would_not_save_us_but_helps(tmp_path, target, monkeypatch):
    """With our inspection switched off, tar's own guards keep every one of these archives inside the target."""
    monkeypatch.setattr(ArchiveInspector, "feed", lambda *_: None)
    monkeypatch.setattr(ArchiveInspector, "finish", lambda *_: None)
    monkeypatch.setattr(ArchiveInspector, "ended", True)
    for number, (_name, data) in enumerate(cases(tmp_path).values()):
        try:
            restore(data, target.with_name(f"target-{number}"))
        except DataGuardianError:
            continue
    assert (tmp_path / "victim").read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == ["inner", "victim"]


def test_links_out_of_the_tree_are_content(target, tmp_path):
    """Symbolic links to anywhere, hard links to them included, are restored as they are."""
    data = archive(TOP, ("a", LINK, "/etc/passwd"), ("b", LINK, "../../victim"), ("c", HARD, "a"), ("d", LINK, "."))
    restore(data, target)
    assert {name: os.readlink(target / name) for name in os.listdir(target)} == {
        "a": "/etc/passwd",
        "b": "../../victim",
        "c": "/etc/passwd",
        "d": ".",
    }


@pytest.mark.parametrize(
    "damage",
    [
        b"0 path=x\n",
        b"11 path=x\n",
        b"8 path=x\n",
        b"99 path=x\n",
        b"-9 path=x\n",
        b"9 path=x\n10 path=yy\n",
        b"10 path=x\0\n",
        b"9 size=z\n",
        b"6 path\n",
        b"path\n",
        b"20 path=xxxxxxxxxxxx\n10",
    ],
)
def test_malformed_extended_headers(damage):
    """An extended header that is not exactly what POSIX says is refused, never read in a way of our own."""
    good = archive(("placeholder", FILE, ""), pax={"comment": "x"})
    header = bytearray(good[:512])
    header[124:136] = b"%011o\0" % len(damage)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + damage.ljust(512, b"\0") + good[1024:]
    inspector = ArchiveInspector()
    with pytest.raises(IntegrityError):
        inspector.feed(data)
