"""GNU tar: finding it, what it can do here, and the options of every call."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dataguardian.domain.errors import MissingToolError
from dataguardian.engines import tools
from dataguardian.engines.processes import run_child
from dataguardian.registry import ClientProgram

_NAMES = ("tar", "gtar", "gnutar")
_OLDEST = (1, 29)
BLOCKING_FACTOR = 256
_VERSION = re.compile(r"\(GNU tar\) (\d+)\.(\d+)\S*")
_HONEST_BLOCK_COUNTS = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "f2fs", "bcachefs", "jfs"}
)
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Tar:
    """An installed GNU tar. `xattrs` tells whether it was built with support for extended attributes."""

    path: str
    version: str
    xattrs: bool

    def environment(self) -> dict[str, str]:
        """Messages are read by us, so they must be untranslated; TAR_OPTIONS of the user would change any call."""
        kept = {key: value for key, value in os.environ.items() if key not in ("TAR_OPTIONS", "TAPE", "LANGUAGE")}
        return kept | {"LC_ALL": "C"}

    def dump_command(self, source: str, *, names_from_stdin: bool) -> list[str | bytes]:
        """Returns the argv that writes `source` to standard output.

        pax format carries names, sizes, owners and nanoseconds without limits. POSIX ACLs travel as the extended
        attributes that they are: `--acls` costs 0.5 s more on 100,000 small files, of 1.7 s in all. Records of
        128 KiB save a quarter over tar's own 10 KiB; bigger ones save nothing more and pad small archives.
        """
        argv: list[str | bytes] = [
            *(self.path, "--create", "--file=-", "--format=posix", f"--blocking-factor={BLOCKING_FACTOR}"),
            "--pax-option=delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f",
            *self._common(attributes="*"),
            *(("--sparse",) if counts_blocks_honestly(source) else ()),
            *(b"--directory=" + os.fsencode(source),),
        ]
        if names_from_stdin:
            return [*argv, "--null", "--no-unquote", "--no-recursion", "--verbatim-files-from", "--files-from=-"]
        return [*argv, "."]

    def extract_command(self, target: str, *, capabilities: bool) -> list[str | bytes]:
        """Returns the argv that reads an archive from standard input into the folder `target`.

        Ordinary users can neither give files away nor set attributes of the system.
        """
        root = os.geteuid() == 0
        return [
            *(self.path, "--extract", "--file=-", "--preserve-permissions", "--numeric-owner"),
            *("--delay-directory-restore", "--warning=no-timestamp"),
            "--same-owner" if root else "--no-same-owner",
            *self._common(*(() if root else ("system.posix_acl_*",)), attributes="*" if root else "user.*"),
            *(() if capabilities or not self.xattrs else ("--xattrs-exclude=security.capability",)),
            *(b"--directory=" + os.fsencode(target),),
        ]

    def list_command(self) -> list[str | bytes]:
        return [self.path, "--list", "--file=-", "--quoting-style=escape"]

    def _common(self, *more: str, attributes: str) -> list[str]:
        included = [f"--xattrs-include={mask}" for mask in (attributes, *more)]
        return ["--quoting-style=escape", *(("--xattrs", *included) if self.xattrs else ())]


def find_tar() -> Tar:
    """Returns the GNU tar of this machine; raises MissingToolError when there is none, or only another tar."""
    for name in _NAMES:
        path = shutil.which(name)
        tar = _probe(path) if path else None
        if tar is not None:
            return tar
    raise MissingToolError(
        f"GNU tar {_OLDEST[0]}.{_OLDEST[1]} or newer is needed to back up and restore files, and was not found",
        hint=install_command(),
        tool="tar",
    )


def programs() -> list[ClientProgram]:
    try:
        tar = find_tar()
    except MissingToolError:
        return [ClientProgram("tar", None, None, install_command())]
    return [ClientProgram("tar", tar.path, tar.version, install_command())]


def install_command() -> str:
    """Returns the command that installs GNU tar with the package manager that is here."""
    return tools.install_command({"": "tar", "brew": "gnu-tar"}, "install GNU tar")


@cache
def _probe(path: str) -> Tar | None:
    """Returns None for another tar (BSD, busybox), or one that is too old."""
    code, output, _ = run_child([path, "--version"])
    match = _VERSION.search(output.decode("utf-8", "replace")) if code == 0 else None
    if match is None or (int(match[1]), int(match[2])) < _OLDEST:
        return None
    code, _, complaints = run_child([path, "-c", "--xattrs", "--xattrs-include=*", "-f", "-", "-T", "/dev/null"])
    return Tar(path, match[0].rpartition(" ")[2], xattrs=code == 0 and not complaints)


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    point: str
    file_system: str


def mounts() -> Iterator[Mount]:
    """Yields what is mounted, in order; nothing where the kernel does not tell."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields, _, rest = line.partition(b" - ")
        raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), fields.split(b" ")[4])
        yield Mount(os.fsdecode(raw), rest.split(b" ")[0].decode("ascii", "replace"))


def is_below(path: str, folder: str) -> bool:
    """Tells whether the absolute `path` is `folder` or lies in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def counts_blocks_honestly(source: str) -> bool:
    """Tells whether `--sparse` is safe: every file system at and below `source` is known to count blocks truly.

    tar takes a file of zero blocks for one big hole without reading it, and some file systems (FUSE, network ones)
    count no blocks at all: every file would become zeros. ZFS is left out because it reported holes wrongly for
    years, and because it makes holes of zeros by itself.
    """
    path = os.path.realpath(source)
    around = ""
    kinds: dict[str, str] = {}
    for mount in mounts():
        if is_below(mount.point, path):
            kinds[mount.point] = mount.file_system
        if is_below(path, mount.point) and len(mount.point) >= len(around):
            around = mount.point
            kinds[""] = mount.file_system
    return bool(kinds) and _HONEST_BLOCK_COUNTS.issuperset(kinds.values())
