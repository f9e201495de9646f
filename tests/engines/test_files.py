"""Folders through the files engine, there and back, with stock GNU tar as the judge."""

# ruff: noqa: PTH208 -- os.listdir compares with lists of names

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataguardian.domain.errors import (
    DiskFullError,
    DumpFailedError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    RestoreFailedError,
    TargetNotEmptyError,
    UsageError,
)
from dataguardian.domain.urls import parse_url
from dataguardian.engines.base import DumpOptions, RestoreOptions
from dataguardian.engines.files import ADAPTER, FilesConfig, validate
from dataguardian.engines.files import restore as files_restore
from dataguardian.engines.files import tar as files_tar
from tests.conftest import missing, require_tool
from tests.engines.files_tools import (
    ACCESS_ACL,
    ALL,
    DEFAULT_ACL,
    ROOT,
    Stored,
    build_tree,
    children,
    dump,
    engine,
    make_socket,
    read_all,
    restore,
    snapshot,
)


@pytest.fixture(autouse=True)
def _tar():
    require_tool("tar")


@pytest.fixture
def tree(tmp_path):
    """One of everything that this user may make."""
    path = tmp_path / "source"
    build_tree(os.fsencode(path))
    return path


@pytest.fixture
def busy(tmp_path):
    """Forty files of 256 KiB: more than fits the pipe, so that tar waits for us in the middle of them."""
    path = tmp_path / "busy"
    path.mkdir()
    for number in range(40):
        (path / f"file-{number}").write_bytes(os.urandom(256 << 10))
    return path


@pytest.fixture
def target(tmp_path):
    (tmp_path / "restored").mkdir()
    return tmp_path / "restored" / "target"


def leftovers(target: Path) -> list[str]:
    return [name for name in os.listdir(target.parent) if "dataguardian" in name]


# Round trips


def test_everything_comes_back(tree, target):
    """Whatever a file system can hold is restored with every property that it had, and nothing is left beside it."""
    before = snapshot(tree)
    data, warnings = dump(tree)
    restore(data, target)
    assert snapshot(target) == before
    assert warnings == []
    assert os.listdir(target.parent) == ["target"]


def test_everything_comes_back_with_patterns(tree, target):
    """The same holds when our walk hands tar the names one by one."""
    data, warnings = dump(tree, DumpOptions(exclude=("no-such-name",)))
    restore(data, target)
    assert snapshot(target) == snapshot(tree)
    assert warnings == []


def test_restore_by_hand(tree, target):
    """The shell command that goes into the manifest restores the tree with stock tar alone."""
    (stream,) = engine(tree).dump(ALL)
    with stream:
        data = read_all(stream)
        stream.finish()
        (command,) = stream.restore_by_hand
    subprocess.run(["sh", "-c", command], input=data, cwd=target.parent, check=True)
    assert snapshot(target) == snapshot(tree)


def test_nothing_is_inherited_from_the_targets_parent(tree, target):
    """Default ACLs of the folder that is restored into do not mark the restored files."""
    os.setxattr(target.parent, "system.posix_acl_default", DEFAULT_ACL)
    data, _ = dump(tree)
    restore(data, target)
    assert snapshot(target) == snapshot(tree)


def test_dump_is_deterministic(tree):
    """Two dumps of an unchanged tree are the same bytes, but for the process id in the names of sparse files."""
    (tree / "sparse").unlink()
    (tree / "all-hole").unlink()
    assert dump(tree)[0] == dump(tree)[0]


def test_empty_folder(tmp_path, target):
    """A source without a single file is a complete backup of its own properties."""
    source = tmp_path / "empty"
    source.mkdir(mode=0o711)
    data, _ = dump(source)
    restore(data, target)
    assert snapshot(target) == snapshot(source)


def test_source_whose_name_is_not_utf8(tmp_path, target):
    """A folder of any name can be addressed by URL, named, dumped and restored."""
    source = os.fsencode(tmp_path) + b"/caf\xe9\n"
    build_tree(source)
    config = FilesConfig.from_url(parse_url(f"files://{tmp_path}/caf%E9%0A"))
    assert os.fsencode(config.source_path) == source
    assert config.default_name() == "caf\\xe9\n"
    assert config.describe() == f"files://{tmp_path}/caf%E9%0A"
    data, _ = dump(config.source_path)
    restore(data, os.fsdecode(os.fsencode(target) + b"\xff"))
    assert snapshot(os.fsencode(target) + b"\xff") == snapshot(source)


def test_patterns_of_config_and_options_add_up(tmp_path):
    """The datasource's patterns hold for every backup, and those of one run are added."""
    for name in ("a.txt", "b.log", "c.tmp"):
        (tmp_path / name).touch()
    source = engine(tmp_path, include_patterns=("*.txt", "*.log"), exclude_patterns=("c*",))
    assert source.inventory().items == {"a.txt": 0, "b.log": 0}
    (stream,) = source.dump(DumpOptions(exclude=("b*",)))
    with stream:
        data = read_all(stream)
        stream.finish()
    listed = subprocess.run(["tar", "-tf", "-"], input=data, capture_output=True, check=True).stdout.split()
    assert listed == [b"./", b"./a.txt"]


def test_excluded_folder_is_not_looked_into(tmp_path):
    """A folder that is excluded need not be readable."""
    (tmp_path / "locked").mkdir(mode=0)
    (tmp_path / "open").touch()
    report = run_without_privileges(tmp_path, exclude=["locked"])
    assert report == {"warnings": []}


def test_sparse_detection_needs_an_honest_file_system(tmp_path, monkeypatch):
    """On a file system that may not count blocks, holes are read: tar would take every file there for one hole."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text("1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /srv/my\\040files/inner rw - fuse.sshfs x rw\n")
    monkeypatch.setattr(files_tar, "_MOUNTS", mounts)
    assert files_tar.counts_blocks_honestly("/srv/other")
    assert not files_tar.counts_blocks_honestly("/srv/my files")
    assert not files_tar.counts_blocks_honestly("/srv/my files/inner/below")
    mounts.unlink()
    assert not files_tar.counts_blocks_honestly("/srv/other")
    command = files_tar.find_tar().dump_command(str(tmp_path), names_from_stdin=False)
    assert "--sparse" not in command


# Trees that move while they are read


@pytest.mark.parametrize("options", [ALL, DumpOptions(exclude=("nothing",))], ids=["tar walks", "we walk"])
def test_files_that_vanish_are_warnings(busy, target, options):
    """Files that are deleted in the middle of the dump are named in warnings, and the rest restores."""
    (stream,) = engine(busy).dump(options)
    with stream:
        data = read_all(stream, 1)
        for file in busy.iterdir():
            file.unlink()
        data += read_all(stream)
        stream.finish()
        vanished = [warning for warning in stream.warnings if "vanished before it was read" in warning]
        assert 20 < len(vanished) < 40
        assert vanished[0].startswith("./file-")
    restore(data, target)
    assert len(os.listdir(target)) == 40 - len(vanished)


def test_file_that_grows_is_a_warning(tmp_path, target):
    """A file that is written while it is read is named in a warning, and comes back with the size it had."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "log\n").write_bytes(b"x" * (8 << 20))
    (stream,) = engine(source).dump(ALL)
    with stream:
        data = read_all(stream, 1)
        with (source / "log\n").open("ab") as file:
            file.write(b"more")
        data += read_all(stream)
        stream.finish()
        assert stream.warnings == ["./log\\n changed while it was read"]
    restore(data, target)
    assert (target / "log\n").read_bytes() == b"x" * (8 << 20)


def test_file_that_shrinks_is_a_warning(tmp_path, target):
    """A file that is cut while it is read keeps its place in the archive, filled up with zeros, and a warning."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "log").write_bytes(b"x" * (8 << 20))
    (stream,) = engine(source).dump(ALL)
    with stream:
        data = read_all(stream, 1)
        os.truncate(source / "log", 10)
        data += read_all(stream)
        stream.finish()
        assert "./log shrank while it was read: zeros fill it up" in stream.warnings
    restore(data, target)
    assert (target / "log").stat().st_size == 8 << 20


@contextmanager
def folder_replaced(tmp_path, make):
    """Yields the stream of a source with files in `e/d`, for which `e/d` was replaced once its names were listed."""
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    (source / "e" / "d").mkdir(parents=True)
    elsewhere.mkdir()
    for file in (source / "big", source / "e" / "d" / "x", elsewhere / "x"):
        file.write_bytes(b"x" * (8 << 20 if file.name == "big" else 1))
    (stream,) = engine(source).dump(DumpOptions(exclude=("nothing",)))
    with stream:
        stream._feeder.join(30)  # tar waits with `big` for somebody to read, and has all names behind it
        shutil.rmtree(source / "e" / "d")
        make(source / "e" / "d", elsewhere)
        yield stream


def test_a_folder_that_becomes_a_link_while_it_is_read_is_no_backup(tmp_path):
    """What nobody would unpack, a link with files below it, fails the dump when it is made and not the restore."""
    with (
        folder_replaced(tmp_path, lambda path, elsewhere: path.symlink_to(elsewhere)) as stream,
        pytest.raises(DumpFailedError, match=r"\./e/d/x would be written through a symbolic link"),
    ):
        read_all(stream)


def test_a_folder_that_becomes_a_file_while_it_is_read_is_a_warning(tmp_path, target):
    """The file is in the backup, what was in the folder is told to have vanished, and all of it restores."""
    with folder_replaced(tmp_path, lambda path, _: path.write_text("a file")) as stream:
        data = read_all(stream)
        stream.finish()
        assert stream.warnings == ["./e/d/x vanished before it was read"]
    restore(data, target)
    assert (target / "e" / "d").read_text() == "a file"


def test_warnings_are_bounded(tmp_path):
    """A thousand vanished files fill a hundred lines of warnings and one that counts the rest."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(1100):
        (source / f"file-{number}").write_bytes(b"x" * 10_000)
    (stream,) = engine(source).dump(ALL)
    with stream:
        read_all(stream, 1)
        shutil.rmtree(source)
        source.mkdir()
        read_all(stream)
        with pytest.raises(DumpFailedError):
            stream.finish()
        assert len(stream.warnings) == 101
        assert stream.warnings[-1].endswith(" more files changed, vanished or could not be held")


def test_source_that_disappears_fails(busy):
    """Vanished files are harmless one by one; the whole source being removed is not."""
    (stream,) = engine(busy).dump(ALL)
    with stream:
        read_all(stream, 1)
        shutil.rmtree(busy)
        read_all(stream)
        with pytest.raises(DumpFailedError, match="removed, replaced or unmounted"):
            stream.finish()


def test_socket_is_a_warning(tmp_path, target):
    """A socket cannot be archived, which a warning says; everything else is there."""
    source = tmp_path / "source"
    source.mkdir()
    make_socket(source / "socket")
    (source / "file").touch()
    data, warnings = dump(source)
    assert warnings == ["./socket is a socket, which no archive can hold"]
    restore(data, target)
    assert os.listdir(target) == ["file"]


# Dumps that must fail

REPORT = """
import json, sys
from dataguardian.domain.errors import DataGuardianError
from dataguardian.engines.base import DumpOptions
from dataguardian.engines.files import FilesConfig, FilesEngine
try:
    engine = FilesEngine(FilesConfig(source_path=sys.argv[1], exclude_patterns=tuple(sys.argv[2:])))
    (stream,) = engine.dump(DumpOptions())
    buffer = memoryview(bytearray(1 << 20))
    with stream:
        while stream.readinto(buffer):
            pass
        stream.finish()
    print(json.dumps({"warnings": stream.warnings}))
except DataGuardianError as error:
    print(json.dumps(error.as_json()))
"""


def run_without_privileges(source: Path, *, exclude: list[str] = []) -> dict:  # noqa: B006 -- never changed
    """Dumps `source` in a process that file permissions bind, as they do not bind root."""
    bound = [require_tool("setpriv"), "--bounding-set=-dac_override,-dac_read_search", "--"] if ROOT else []
    command = [*bound, sys.executable, "-c", REPORT, str(source), *exclude]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("exclude", [[], ["nothing"]], ids=["tar walks", "we walk"])
def test_unreadable_files_fail_the_backup(tmp_path, exclude):
    """A file and a folder that may not be read fail the backup, are named, and the error says what to do."""
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0)
    (tmp_path / "locked").mkdir(mode=0)
    report = run_without_privileges(tmp_path, exclude=exclude)
    assert report["error"] == "dump_failed"
    assert "./secret: Cannot open: Permission denied" in report["message"]
    assert "./locked" in report["message"]
    assert "--exclude" in report["details"]["hint"]


def test_source_that_may_not_be_opened(tmp_path):
    """A source that this user may not list is an error of access, before anything starts."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    assert run_without_privileges(locked)["error"] == "not_allowed"


@pytest.mark.parametrize(
    ("name", "error"), [("missing", NotFoundError), ("file", UsageError), ("dangling", NotFoundError)]
)
def test_source_that_is_no_folder(tmp_path, name, error):
    """A source that is missing, or not a folder, is refused before anything starts."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(error):
        engine(tmp_path / name).dump(ALL)
    assert engine(tmp_path / name).check().status == "error"


def test_pattern_that_cannot_match_is_refused(tmp_path):
    """A pattern that could never match is wrong usage, before anything starts."""
    with pytest.raises(UsageError, match="can never match"):
        engine(tmp_path).dump(DumpOptions(exclude=("[ab",)))


def test_killed_tar_fails(busy):
    """A tar that is killed in the middle has written plausible bytes, and the backup fails all the same."""
    before = children()
    (stream,) = engine(busy).dump(ALL)
    with stream:
        read_all(stream, 1)
        (pid,) = children() - before
        os.kill(int(pid), 9)
        read_all(stream)
        with pytest.raises(DumpFailedError, match="code -9"):
            stream.finish()


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ('echo "tar: ./x: file changed as we read it" >&2; exit 2', "code 2"),
        ('echo "tar: ./x: socket ignored" >&2; exit 1', "code 1"),
        ("exit 1", "code 1"),
        ("exit 0", "middle of the archive"),
        ("head -c 10240 /dev/zero; echo more; exit 0", "middle of the archive"),
        ('echo "tar: ./x: Read error at byte 0, while reading 512 bytes: Input/output error" >&2; exit 2', "./x"),
        ('echo "tar: something nobody has ever seen" >&2; exit 0', "nobody has ever seen"),
        ('echo "tar: ./x: Cannot open: No such file or directory" >&2; head -c 1024 /dev/zero; exit 2', None),
    ],
)
def test_what_tar_says_is_taken_strictly(tmp_path, monkeypatch, script, text):
    """Only codes that harmless messages account for are accepted, and only with the end of the archive."""
    program = tmp_path / "tar"
    program.write_text(f"#!/bin/sh\n{script.replace('tar: ', f'{program}: ')}\n")
    program.chmod(0o755)
    fake = files_tar.Tar(str(program), "1.34", xattrs=True)
    monkeypatch.setattr("dataguardian.engines.files.find_tar", lambda: fake)
    if text is None:
        assert dump(tmp_path)[1] == ["./x vanished before it was read"]
    else:
        with pytest.raises(DumpFailedError, match=text):
            dump(tmp_path)


@pytest.mark.parametrize("options", [ALL, DumpOptions(exclude=("nothing",))], ids=["tar walks", "we walk"])
def test_abandoned_dump_leaves_no_child(busy, options):
    """Leaving the stream in the middle ends tar and the thread that feeds it."""
    before = children()
    (stream,) = engine(busy).dump(options)
    with stream:
        read_all(stream, 1)
        assert children() > before
    assert children() == before


# Validation


def test_validate_accepts_what_dump_writes(tree):
    """A whole archive passes the deep check, in pieces of any size."""
    data, _ = dump(tree)
    for piece_bytes in (511, 512, 10_000, len(data)):
        validate("tar", {}, Stored(data, piece_bytes=piece_bytes).chunks())


@pytest.mark.parametrize("where", ["header", "member boundary", "half a header", "one zero block", "nothing"])
def test_validate_finds_a_cut_archive(busy, where):
    """An archive that was cut anywhere is found, also where tar itself sees nothing wrong."""
    data, _ = dump(busy)
    end = -(-len(data.rstrip(b"\0")) // 512) * 512
    cut = {"header": 512, "member boundary": end, "half a header": 700, "one zero block": end + 512, "nothing": 0}[
        where
    ]
    if where == "member boundary":
        subprocess.run(["tar", "-tf", "-"], input=data[:cut], capture_output=True, check=True)
    with pytest.raises(IntegrityError):
        validate("tar", {}, Stored(data[:cut]).chunks())


def test_validate_finds_flipped_headers(tree):
    """A bit that flips in any header is found."""
    data, _ = dump(tree)
    at = data.index(b"ustar\x00") - 257
    for offset in (0, 110, 130, 150, 156, 260, 300):
        damaged = bytearray(data)
        damaged[at + offset] ^= 4
        with pytest.raises(IntegrityError):
            validate("tar", {}, iter([bytes(damaged)]))


# Restores


def test_target_may_be_an_empty_folder(busy, target):
    """An empty folder is taken for a missing one."""
    target.mkdir()
    restore(dump(busy)[0], target)
    assert snapshot(target) == snapshot(busy)


def test_target_with_content_needs_drop_existing(busy, target):
    """A target that holds something is refused, and replaced as a whole with drop_existing."""
    target.mkdir()
    (target / "precious").touch()
    (target / "read-only").mkdir()
    (target / "read-only" / "file").touch()
    (target / "read-only").chmod(0o555)
    data, _ = dump(busy)
    with pytest.raises(TargetNotEmptyError):
        restore(data, target)
    assert (target / "precious").exists()
    restore(data, target, drop_existing=True)
    assert snapshot(target) == snapshot(busy)
    assert os.listdir(target.parent) == ["target"]


def test_what_a_killed_restore_left_is_named_by_the_next_one(busy, target):
    """Not removed: after a swap it would be what the target held before. Another target's is nobody's business here."""
    left = target.parent / f".{target.name}.dataguardian-0123456789ab"
    left.mkdir()
    (target.parent / ".other.dataguardian-0123456789ab").mkdir()
    [warning] = restore(dump(busy)[0], target)
    assert str(left) in warning
    assert left.exists()


def test_swap_where_the_system_cannot_exchange(busy, target, monkeypatch):
    """On file systems without an atomic exchange, two renames do, and go back when the second one fails."""
    monkeypatch.setattr(files_restore, "_exchange", files_restore._exchange_in_steps)
    target.mkdir()
    (target / "precious").touch()
    restore(dump(busy)[0], target, drop_existing=True)
    assert snapshot(target) == snapshot(busy)
    with pytest.raises(FileNotFoundError):
        files_restore._exchange_in_steps(str(target.parent / "nothing"), str(target))
    assert os.listdir(target.parent) == ["target"]


@pytest.mark.parametrize("drop", [False, True], ids=["missing", "drop_existing"])
def test_damaged_stream_leaves_the_target_alone(busy, target, drop):
    """When the pipeline finds damage in the middle, its error passes through and the target is as it was."""
    if drop:
        target.mkdir()
        (target / "precious").write_text("x")
    processes, before = children(), snapshot(target.parent)
    before.pop(b".")
    stored = Stored(dump(busy)[0], error=IntegrityError("scripted"))
    with pytest.raises(IntegrityError, match="scripted"):
        restore(stored, target, drop_existing=drop)
    after = snapshot(target.parent)
    after.pop(b".")
    assert after == before
    assert children() == processes


def test_read_only_folders_of_an_aborted_restore_are_removed(tree, target):
    """Nothing of an aborted restore is left, folders without write permission included."""
    data, _ = dump(tree)
    stored = Stored(data[: len(data) - 10240].rstrip(b"\0"))
    with pytest.raises(IntegrityError, match="cut off"):
        restore(stored, target)
    assert os.listdir(target.parent) == []


def test_target_filled_meanwhile_is_not_overwritten(busy, target):
    """A target that somebody fills while the restore runs keeps what they put there."""

    class Filling(Stored):
        def chunks(self):
            yield from super().chunks()
            target.mkdir()
            (target / "theirs").touch()

    with pytest.raises(TargetNotEmptyError, match="during the restore"):
        restore(Filling(dump(busy)[0]), target)
    assert os.listdir(target) == ["theirs"]
    assert leftovers(target) == []


def test_disk_full(busy, tmp_path):
    """A target's disk that fills up is a clear error, and everything that was written is removed again."""
    if not ROOT:
        missing("root, to mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(small)], check=True)
    try:
        with pytest.raises(DiskFullError, match="no room"):
            restore(dump(busy)[0], small / "target")
        assert os.listdir(small) == []
        with pytest.raises(UsageError, match="mount point"):
            restore(dump(busy)[0], small, drop_existing=True)
        with pytest.raises(UsageError, match="mount point"):
            restore(dump(busy)[0], tmp_path, drop_existing=True)
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("path", ["/", "//", "/tmp/..", "/proc"])
def test_targets_that_no_restore_may_replace(path):
    """The root, parents by way of `..` and mount points are refused."""
    with pytest.raises(UsageError):
        engine(path).prepare_restore([("x", "tar")], RestoreOptions(drop_existing=True))


def test_targets_of_the_wrong_kind(tmp_path):
    """A file, a link and a folder in a missing folder are refused by name."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    options = RestoreOptions(drop_existing=True)
    for name, error in (("file", UsageError), ("link", UsageError), ("none/below", NotFoundError)):
        with pytest.raises(error, match=name.split("/")[0]):
            engine(tmp_path / name).prepare_restore([("x", "tar")], options)
    with pytest.raises(UsageError, match="one tar stream"):
        engine(tmp_path / "new").prepare_restore([("x", "tar"), ("y", "tar")], options)
    with pytest.raises(UsageError, match="one tar stream"):
        engine(tmp_path / "new").prepare_restore([("x", "pgdump")], options)


def test_target_in_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    """A parent without write permission is an error of access before a byte is fetched."""
    allowed = os.access
    monkeypatch.setattr(files_restore.os, "access", lambda path, mode: path != str(tmp_path) and allowed(path, mode))
    with pytest.raises(NotAllowedError):
        engine(tmp_path / "new").prepare_restore([("x", "tar")], RestoreOptions())


def test_tar_that_cannot_write_fails(busy, target, monkeypatch):
    """When tar cannot restore a file, the restore stops, says why, and undoes everything."""
    extract = files_tar.Tar.extract_command

    def misled(self, staging, **options):
        (Path(staging) / "file-7").mkdir()
        (Path(staging) / "file-7" / "in-the-way").touch()
        return extract(self, staging, **options)

    monkeypatch.setattr(files_tar.Tar, "extract_command", misled)
    with pytest.raises(RestoreFailedError, match="file-7"):
        restore(dump(busy)[0], target)
    assert os.listdir(target.parent) == []


# The rest of the contract


def test_check_and_inventory(tree):
    """check answers for a folder, and inventory counts the bytes of its regular files."""
    assert engine(tree).check().status == "ok"
    items = engine(tree).inventory().items
    assert items["plain"] == 5
    assert items["sparse"] == 128 << 20
    assert "link" not in items
    assert len(items) == sum(stat.S_ISREG(int(facts["mode"], 8)) for facts in snapshot(tree).values())


def test_adapter():
    """The adapter names its tool with a version, and refuses relative paths."""
    (program,) = ADAPTER.programs()
    assert program.name == "tar"
    assert program.version
    assert program.install
    with pytest.raises(UsageError):
        FilesConfig.from_url(parse_url("files://relative/path"))
    with pytest.raises(ValueError, match="absolute"):
        FilesConfig(source_path="relative")


def test_acls_are_really_tested(tree):
    """The tree of these tests carries the ACLs that the comparisons are meant to cover."""
    facts = snapshot(tree)
    assert facts[b"attributes"]["xattrs"]["system.posix_acl_access"] == ACCESS_ACL
    assert facts[b"with-acl"]["xattrs"]["system.posix_acl_default"] == DEFAULT_ACL
    assert facts[b"sparse"]["sparse"]
    assert facts[b"links/hard-symlink"]["same_file"] == [b"link-outside", b"links/hard-symlink"]
