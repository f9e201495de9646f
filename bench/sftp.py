"""The SFTP storage against rclone, on one private sshd."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import Side

if TYPE_CHECKING:
    from sections import Bench

SSHD = "/usr/sbin/sshd"
FULL_BYTES, QUICK_BYTES = 1_500_000_000, 150_000_000
OURS, RCLONE = "dataguardian", "rclone"
PROGRAM = Path(sys.executable).with_name("rclone")


def upload(bench: Bench) -> dict[str, Any]:
    """1.5 GB in parts of 16 MiB, against `rclone rcat` of the same bytes."""
    with _server(bench) as place:
        theirs = (
            f"{PROGRAM} --config {place.rclone} rcat -q --size {place.size_bytes} s:{place.stored}/one < {place.source}"
        )
        sides = [place.ours("put", before=place.empty), bench.shell(RCLONE, theirs, before=place.empty)]
        return bench.compared({RCLONE: 1.1}, sides, place.size_bytes)


def download(bench: Bench) -> dict[str, Any]:
    """The same back, against `rclone cat`."""
    with _server(bench) as place:
        place.empty()
        shutil.copyfile(place.source, place.stored / "one")
        bench.run(place.ours("put"))
        theirs = f"{PROGRAM} --config {place.rclone} cat -q s:{place.stored}/one > /dev/null"
        return bench.compared({RCLONE: 1.1}, [place.ours("get"), bench.shell(RCLONE, theirs)], place.size_bytes)


class _Place:
    """Where one comparison happens: source and storage in memory where there is room, so that disks do not count."""

    def __init__(self, folder: Path, port: int, size_bytes: int) -> None:
        self.folder, self.size_bytes = folder, size_bytes
        self.source, self.stored, self.rclone = folder / "source", folder / "stored", folder / "rclone.conf"
        user, key = pwd.getpwuid(os.geteuid()).pw_name, folder / "key"
        self.address = f"sftp://{user}@127.0.0.1:{port}{self.stored}?private_key_file={key}"
        remote = {"type": "sftp", "host": "127.0.0.1", "port": port, "user": user, "key_file": key}
        remote |= {"shell_type": "none", "known_hosts_file": "none"}
        self.rclone.write_text("[s]\n" + "".join(f"{name} = {value}\n" for name, value in remote.items()))

    def ours(self, verb: str, **hooks: Any) -> Side:
        argv = [sys.executable, Path(__file__).with_name("transfer.py"), verb, self.address, self.source]
        return Side(OURS, argv, {"DATAGUARDIAN_HOME": str(self.folder / "home")}, **hooks)

    def empty(self) -> None:
        shutil.rmtree(self.stored, ignore_errors=True)
        self.stored.mkdir()


@contextmanager
def _server(bench: Bench) -> Iterator[_Place]:
    size_bytes = QUICK_BYTES if bench.scale.name == "quick" else FULL_BYTES
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 3 * size_bytes
    folder = (memory if roomy else bench.work) / f"dataguardian-bench-{os.getpid()}"
    folder.mkdir(mode=0o700)
    try:
        port = _free_port()
        process = _started(folder, port)
        bench.meter.kept_pids.add(process.pid)
        try:
            place = _Place(folder, port, size_bytes)
            with place.source.open("wb") as file:
                for _ in range(size_bytes // 1_000_000):
                    file.write(os.urandom(1_000_000))
            yield place
        finally:
            bench.meter.kept_pids.discard(process.pid)
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder)


def _started(folder: Path, port: int) -> subprocess.Popen[bytes]:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "key.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    config = folder / "sshd_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    process = subprocess.Popen([SSHD, "-D", "-q", "-f", config])
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process
    raise SystemExit("sshd does not listen")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
