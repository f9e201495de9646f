"""Hand-made archives that try to leave the target folder: each is refused, by name, and nothing is written outside."""

# ruff: noqa: PTH115, PTH116, PTH208 -- os.listdir and os.stat compare with plain values

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from dataguardian.domain.errors import DataGuardianError, IntegrityError, UsageError
from dataguardian.domain.urls import parse_url
from dataguardian.engines.files import FilesConfig
from dataguardian.engines.files.inspect import ArchiveInspector
from tests.conftest import require_tool
from tests.engines.files_tools import Stored, restore

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


def powers(*, devices: bool = True) -> bytes:
    """An archive of a set-user-ID program, a set-group-ID one, one with capabilities, devices, and a shared folder."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, mode: int, kind: bytes = FILE, pax: dict[str, str] | None = None, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.pax_headers = kind, mode, link, pax or {}
            info.uid, info.gid, info.mtime = os.getuid(), os.getgid(), 1_600_000_000
            info.devmajor, info.devminor = 1, 3
            content = b"#!/bin/sh\n" if kind == FILE else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        add("./", 0o755, FOLDER)
        add("./shared", 0o2775, FOLDER)
        add("./shared/" + "n" * 150, 0o4755)  # its name is in an extended header
        add("./setgid", 0o2755)
        add("./capable", 0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY})
        add("./plain", 0o755)
        add("./linked", 0o6755, HARD, link="plain")
        if devices:
            add("./null", 0o666, tarfile.CHRTYPE)
            add("./disk", 0o666, tarfile.BLKTYPE)
    return raw.getvalue()


CAPABILITY = "\x01\x00\x00\x02\x00\x20\x00\x00" + "\x00" * 12
"""`cap_net_raw+ep`, as the kernel stores it."""


@pytest.mark.parametrize("piece_bytes", [1, 511, 512, 513, 100_003])
def test_what_gives_power_over_the_machine_is_taken_out(target, piece_bytes):
    """A storage that others write to holds a set-user-ID program and a disk: neither is there after a restore, however
    the bytes arrive, and a warning names them; folders keep set-group-ID, and content, modes and times stay.
    """
    (warning,) = restore(Stored(powers(), piece_bytes=piece_bytes), target, privileges="none")
    assert warning.startswith("6 entries were restored without")
    for name in ("nnn", "setgid", "capable", "linked", "null", "disk"):
        assert name in warning
    for path in target.rglob("*"):
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
        assert not (stat.S_ISREG(status.st_mode) and status.st_mode & 0o6000), path
        assert "security.capability" not in os.listxattr(path)
    assert stat.S_IMODE((target / "shared").stat().st_mode) == 0o2775
    assert (target / "setgid").read_text() == "#!/bin/sh\n"
    assert stat.S_IMODE((target / "setgid").stat().st_mode) == 0o755
    assert [stat.S_IMODE((target / name).stat().st_mode) for name in ("null", "disk")] == [0, 0]
    assert (target / "plain").stat().st_mtime == 1_600_000_000


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes devices")
def test_a_system_s_own_tree_comes_back_exactly(target):
    """Whoever says so gets device nodes, set-user-ID, set-group-ID and capabilities back, and no warning."""
    assert restore(powers(), target, privileges="all") == []
    modes = {path.name[:3]: path.lstat().st_mode for path in target.rglob("*")}
    assert stat.S_ISCHR(modes["nul"])
    assert stat.S_ISBLK(modes["dis"])
    assert modes["nnn"] & stat.S_ISUID
    assert modes["set"] & stat.S_ISGID
    assert "security.capability" in os.listxattr(target / "capable")


def test_modes_are_exact_and_devices_need_a_word(target):
    """As it is by default: a program keeps its mode, as people expect of a backup; a device becomes an empty file."""
    (warning,) = restore(powers(), target, privileges="programs")
    assert warning.startswith("2 entries")
    assert stat.S_IMODE((target / "setgid").stat().st_mode) == 0o2755
    assert stat.S_ISREG((target / "disk").stat().st_mode)


def test_a_mode_that_only_tar_would_understand_is_refused(target):
    """GNU's other way to write numbers would hide a bit from us."""
    data = bytearray(powers(devices=False))
    at = data.index(b"./setgid\0")
    data[at + 100 : at + 108] = b"\x80\0\0\0\0\0\x0d\xed"
    header = bytes(data[at : at + 512])
    data[at + 148 : at + 156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
    with pytest.raises(IntegrityError):
        restore(bytes(data), target, privileges="none")
    assert not target.exists()


@pytest.mark.parametrize("query", ["?restore_privileges=yes", "?x=1", "?restore_privileges=all&x=1"])
def test_an_address_says_it_in_one_way(query):
    """What is not understood is refused, and never taken for a no or a yes."""
    assert FilesConfig.from_url(parse_url("files:///a?restore_privileges=all")).restore_privileges == "all"
    assert FilesConfig.from_url(parse_url("files:///a")).restore_privileges == "programs"
    with pytest.raises(UsageError):
        FilesConfig.from_url(parse_url(f"files:///a{query}"))


def test_nothing_follows_below_a_folder_that_became_a_file():
    """What a walk listed as a folder and the archive has as a file has nothing below it, which tar could not unpack."""
    data = archive(TOP, ("d", FILE, ""), ("d/x", FILE, ""))
    ArchiveInspector().feed(data)
    with pytest.raises(IntegrityError, match=r"d/x would be written .* below a file"):
        ArchiveInspector(folders={b"d"}).feed(data)
