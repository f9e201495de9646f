"""A folder on an SSH server, read by OpenSSH's own `sftp`: it needs no shell on the server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dataguardian.ssh import DEFAULT_PORT
from dataguardian.storage.byhand import ByHand, in_file, quoted

if TYPE_CHECKING:
    from dataguardian.storage.ssh import SshConfig

_ASKED = ("password", "passphrase")
_ENDS_OF_LINE = frozenset("\n\r")
_ANSWER = (
    r"#!/bin/sh\n"
    r"case $1 in\n"
    r"*yes/no*) echo \"$1\" >/dev/tty; read -r word </dev/tty; echo \"$word\" ;;\n"
    r"*assphrase*) cat \"$KIT_PASSPHRASE\" ;;\n"
    r"*) cat \"$KIT_PASSWORD\" ;;\n"
    r"esac\n"
)
"""What `ssh` runs instead of asking, since OpenSSH 8.4; an older one asks whoever sits there."""


def commands(config: SshConfig, known_hosts: str) -> ByHand:
    """`known_hosts` is DataGuardian's own file, which has the server's key where the configuration does not name it."""
    files, paths, lacking = _sign_in(config)
    if set(config.folder) & _ENDS_OF_LINE:
        # On a line of its own, sftp would take what follows for a command, `!` and a program's name for one of bash's.
        lacking.append(f"sftp cannot be told the folder {config.folder!a}: fetch the backups by another program")
        refused = ["echo 'its folder has a line break' >&2; return 1"]
        return ByHand("sftp", refused, refused, files=files, paths=paths, lacking=lacking)
    prepare, words = _pinned(config, known_hosts, files, lacking)
    prepare += _answering(files)
    words += ["-o NumberOfPasswordPrompts=1"]
    if "private_key" in files:
        words += [f"-i {in_file('private_key')}", "-o IdentitiesOnly=yes"]
    elif "password" in files:
        words += ["-o PubkeyAuthentication=no"]
    place = f"{config.username}@{_bracketed(config.host)}" if config.username else _bracketed(config.host)
    # BatchMode must come before `-b`, which would forbid that anything is asked: of two, the first one counts.
    sftp = f"sftp -q -P {config.port} -o BatchMode=no {' '.join(words)} -b - -- {quoted(place)}"
    enter = quoted(f'cd "{_escaped(config.folder)}"')
    return ByHand(
        "sftp",
        fetch=[
            *prepare,
            'mkdir -p "$(dirname "./$1")"',
            f'printf \'%s\\n\' {enter} "get -r \\"$1\\" \\"./$(dirname "$1")/\\"" | {sftp}',
        ],
        names=[*prepare, f'printf \'%s\\n\' {enter} "ls -1 \\"$1\\"" | {sftp}'],
        files=files,
        paths=paths,
        asked=[name for name in _ASKED if name in files],
        lacking=lacking,
    )


def _sign_in(config: SshConfig) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Returns the texts that signing in takes, the paths that they were read from, and what is not known here."""
    paths, lacking = {}, []
    secrets = {"password": config.password, "private_key": config.private_key, "passphrase": config.passphrase}
    files = {name: secret.get_secret_value() for name, secret in secrets.items() if secret}
    path = config.private_key_file
    if "private_key" in files and "PRIVATE KEY" not in files["private_key"]:  # it may also be a path
        path = files.pop("private_key")
    if path is not None:
        place = Path(path).expanduser()
        try:
            files["private_key"] = place.read_text(encoding="utf-8")
            paths["private_key"] = str(place)
        except (OSError, UnicodeDecodeError):
            lacking.append(f"the private key {path} could not be read")
    if not files and not lacking:
        lacking.append("the user's agent or own key files sign in: neither is in this kit")
    return files, paths, lacking


def _pinned(
    config: SshConfig, known_hosts: str, files: dict[str, str], lacking: list[str]
) -> tuple[list[str], list[str]]:
    """Returns lines that prepare the server's key, and words by which no other is taken. Adds to what it is given."""
    strictly = "-o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=/dev/null"
    if host_key := _host_key_line(config, known_hosts):
        files["known_hosts"] = host_key
        # ssh splits this option at spaces, which the folder of the kit may have.
        return [], [rf"-o UserKnownHostsFile=\"{in_file('known_hosts')}\"", strictly]
    if config.host_key is None:
        lacking.append(f"the fingerprint of {config.host} that sftp shows is not known here: ask its administrator")
        return [], []
    expected = quoted(config.host_key.strip().rstrip("="))
    return [
        'known="$(mktemp -p "$KIT")"',
        f"ssh-keyscan -p {config.port} {quoted(config.host)} 2>/dev/null | while IFS= read -r line; do",
        f'  case "$(ssh-keygen -lf - <<<"$line")" in *" "{expected}" "*) echo "$line" ;; esac',
        'done > "$known"',
    ], [r'-o UserKnownHostsFile=\""$known"\"', strictly]


def _answering(files: dict[str, str]) -> Sequence[str]:
    """Returns lines after which ssh takes passwords from their files: nothing of them is an argument of a program."""
    asked = [name for name in _ASKED if name in files]
    if not asked:
        return []
    return [
        'export SSH_ASKPASS="$KIT/answer" SSH_ASKPASS_REQUIRE=force',
        *(f"export KIT_{name.upper()}={in_file(name)}" for name in asked),
        f'printf \'{_ANSWER}\' > "$SSH_ASKPASS" && chmod 700 "$SSH_ASKPASS"',
    ]


def _host_key_line(config: SshConfig, known_hosts: str) -> str:
    """Returns lines for a known_hosts file; nothing when only a fingerprint is known, or not even that."""
    name = config.host if config.port == DEFAULT_PORT else f"[{config.host}]:{config.port}"
    if not config.host_key:
        lines = [line for line in known_hosts.splitlines() if name.lower() in line.split(" ")[0].lower().split(",")]
        return "".join(f"{line}\n" for line in lines)
    words = config.host_key.split()
    kinds = [number for number, word in enumerate(words) if word.startswith(("ssh-", "ecdsa-", "sk-"))]
    return f"{name} {' '.join(words[kinds[-1] : kinds[-1] + 2])}\n" if kinds else ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _escaped(folder: str) -> str:
    """Returns a path as sftp's own command line takes it between double quotes."""
    return folder.replace("\\", "\\\\").replace('"', '\\"')
