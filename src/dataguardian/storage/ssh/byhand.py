"""A folder on an SSH server, read by OpenSSH's own `scp` and `sftp`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dataguardian.ssh import DEFAULT_PORT
from dataguardian.storage.byhand import ByHand, in_file, quoted

if TYPE_CHECKING:
    from dataguardian.storage.ssh import SshConfig


def commands(config: SshConfig, known_hosts: str) -> ByHand:
    """`known_hosts` is DataGuardian's own file, which has the server's key where the configuration does not name it."""
    files, lacking = _sign_in(config)
    host_key = _host_key_line(config, known_hosts)
    words = ["-P", str(config.port)]
    if host_key:
        files["known_hosts"] = host_key
        words += ["-o", f"UserKnownHostsFile={in_file('known_hosts')}", "-o", "StrictHostKeyChecking=yes"]
    else:
        expected = f" must be {config.host_key}" if config.host_key else " is not known here: ask its administrator"
        lacking.append(f"the fingerprint of {config.host} that scp shows{expected}")
    if "private_key" in files:
        words += ["-i", in_file("private_key"), "-o", "IdentitiesOnly=yes"]
    place = f"{config.username}@{_bracketed(config.host)}" if config.username else _bracketed(config.host)
    options, folder = " ".join(words), f"{config.folder.rstrip('/')}/"
    return ByHand(
        "scp",
        fetch=[
            'mkdir -p "$(dirname "./$1")"',
            f'scp -q -r {options} {quoted(f"{place}:{folder}")}"$1" "$(dirname "./$1")/"',
        ],
        names=[f'echo ls -1 {quoted(_escaped(folder))}"$1" | sftp -q {options} {quoted(place)}'],
        files=files,
        lacking=lacking,
    )


def _sign_in(config: SshConfig) -> tuple[dict[str, str], list[str]]:
    """Returns the texts that signing in takes, and what is not known here."""
    files, lacking = {}, []
    secrets = {"password": config.password, "private_key": config.private_key, "passphrase": config.passphrase}
    files = {name: secret.get_secret_value() for name, secret in secrets.items() if secret}
    path = config.private_key_file
    if "private_key" in files and "PRIVATE KEY" not in files["private_key"]:  # it may also be a path
        path = files.pop("private_key")
    if path is not None:
        try:
            files["private_key"] = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            lacking.append(f"the private key {path} could not be read")
    if not files and not lacking:
        lacking.append("the user's agent or own key files sign in: neither is in this kit")
    return files, lacking


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
    """Returns a path as sftp's own command line takes it."""
    return folder.replace("\\", "\\\\").replace(" ", "\\ ")
