"""How backups are fetched from a storage without DataGuardian: what the recovery kit says of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

_ASCII = 128


@dataclass(frozen=True)
class ByHand:
    """Stock commands for bash, and what they need.

    `fetch` and `names` are bodies of functions: the first copies the directory `$1` of the storage to `./$1`, the
    second lists the names in it. `files` maps names to texts, secrets mostly, which lie in files of their own: in the
    lines, `in_file(name)` stands for the path. `paths` says where those of them lie that the configuration only names:
    DataGuardian needs them there again. `asked` are those that an old program may ask people for. `notes` are sentences
    for whoever follows this; `lacking` says, a sentence each, what is needed and is not known here.
    """

    program: str
    fetch: Sequence[str]
    names: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    paths: Mapping[str, str] = field(default_factory=dict)
    asked: Sequence[str] = ()
    notes: Sequence[str] = ()
    lacking: Sequence[str] = ()


def in_file(name: str) -> str:
    """Returns what stands for the path of a file, until it has one. No text of a configuration holds a NUL."""
    return f"\0{name}\0"


def quoted(text: str) -> str:
    """Returns bash's word for a text, on one line whatever is in it: a name must not end its block."""
    if text.isprintable():
        return shlex.quote(text)
    data = text.encode("utf-8", "surrogateescape")
    return "$'" + "".join(chr(b) if chr(b).isalnum() and b < _ASCII else f"\\x{b:02x}" for b in data) + "'"


def content_of(name: str) -> str:
    """Returns bash's word for what a file holds, without its last line ending."""
    return f'"$(cat {in_file(name)})"'


def with_rclone(
    kind: str,
    root: str,
    *,
    options: Mapping[str, str | None],
    secrets: Mapping[str, str | None],
    flags: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    paths: Mapping[str, str] | None = None,
    lacking: Sequence[str] = (),
) -> ByHand:
    """Returns commands for `rclone` (1.60 or newer), told everything by variables, so that no secret is an argument.

    `options` and `secrets` are rclone's own names for a backend's options; those that are None are left out.
    """
    texts = {name: text for name, text in secrets.items() if text is not None}
    plain = {"type": kind, **{name: text for name, text in options.items() if text is not None}}
    lines = ["export RCLONE_CONFIG=/notfound"]
    lines += [f"export RCLONE_CONFIG_KIT_{name.upper()}={quoted(text)}" for name, text in plain.items()]
    lines += [f"export RCLONE_CONFIG_KIT_{name.upper()}={content_of(name)}" for name in texts]
    found = rclone_commands(f"kit:{root}", lines, files={**texts, **(files or {})}, flags=flags)
    return replace(found, paths=paths or {}, lacking=lacking)


def rclone_commands(
    remote: str,
    prepare: Sequence[str],
    *,
    files: Mapping[str, str],
    flags: Sequence[str] = (),
) -> ByHand:
    """Returns commands for the folder `remote` of an rclone that `prepare` has told where it is."""
    folder = remote if remote.endswith((":", "/")) else f"{remote}/"
    words = " ".join(["", *flags])
    return ByHand(
        "rclone",
        fetch=[*prepare, f'rclone copy{words} {quoted(folder)}"$1" "./$1"'],
        names=[*prepare, f'rclone lsf{words} {quoted(folder)}"$1"'],
        files=files,
    )
