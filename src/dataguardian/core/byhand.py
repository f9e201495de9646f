"""How a backup is restored without DataGuardian: the lines of its manifest, for bash and stock tools."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from dataguardian.domain import artifact
from dataguardian.domain.artifact import StreamRecord
from dataguardian.streams.codecs import Codec

MAX_GLOBBED_PARTS = 20_000
"""A shell's command line holds two megabytes, which is more names than these."""
_ASK_FOR_KEY = ': "${KEY:?KEY must be the path of the file with the private key}"'
_OPEN_KEY = (
    "umask 077",
    "KEY=$(mktemp)",
    "trap 'rm -f -- \"$KEY\"' EXIT",
    f'age -d {artifact.KEY} > "$KEY"',
)
"""The passphrase is typed once; the key that it guards lies in a file for as long as the restore takes."""


class Guard(Enum):
    """What opens a backup's parts: nothing, somebody's private key, or a passphrase and the backup's own key."""

    NONE = "none"
    IDENTITY = "identity"
    PASSPHRASE = "passphrase"  # noqa: S105 -- a word


def how_to_restore(streams: Sequence[StreamRecord], codec: Codec, guard: Guard = Guard.NONE) -> list[str]:
    """Returns the commands that restore without DataGuardian, to be run in the backup's directory."""
    lines = ["set -eo pipefail", f"sha256sum -c {artifact.SUMS}"]
    if guard is not Guard.NONE:
        lines += [_ASK_FOR_KEY] if guard is Guard.IDENTITY else _OPEN_KEY
    for stream in streams:
        parts = _plain_parts(stream, codec) if guard is Guard.NONE else _opened_parts(stream, codec)
        expand = [] if codec.command == "cat" else [codec.command]
        lines += [" | ".join([parts, *expand, _grouped(command)]) for command in stream.restore_by_hand[:1]]
    return lines


def _plain_parts(stream: StreamRecord, codec: Codec) -> str:
    names = f"{stream.directory}/[0-9]*{codec.suffix}"
    return f"cat {names}" if stream.parts <= MAX_GLOBBED_PARTS else f"printf '%s\\0' {names} | xargs -0 cat"


def _opened_parts(stream: StreamRecord, codec: Codec) -> str:
    """Each part is an age file of its own. A pipe's first command is a shell of its own, which `exit` ends."""
    names = f"{stream.directory}/[0-9]*{codec.suffix}{artifact.PART_SUFFIX}"
    return f'for part in {names}; do age -d -i "$KEY" "$part" || exit; done'


def _grouped(command: str) -> str:
    """Returns the command as one that all of a pipe goes to: `a | b && c` would give `c` nothing."""
    return f"{{ {command}; }}" if set(command) & set("&;|") else command
