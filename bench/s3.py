"""The S3 storage against rclone, on one `rclone serve s3`."""

from __future__ import annotations

import os
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
from sftp import FULL_BYTES, OURS, PROGRAM, QUICK_BYTES, RCLONE

if TYPE_CHECKING:
    from sections import Bench

KEYS = ("bench-key", "bench-secret")
BUCKET = "bucket"


def upload(bench: Bench) -> dict[str, Any]:
    """1.5 GB in parts of 16 MiB, against `rclone rcat` of the same bytes."""
    with _server(bench) as place:
        theirs = bench.shell(RCLONE, f"{place.rclone} rcat -q s:{BUCKET}/one < {place.source}", before=place.empty)
        return bench.compared({RCLONE: 1.1}, [place.ours("put", before=place.empty), theirs], place.size_bytes)


def download(bench: Bench) -> dict[str, Any]:
    """The same back, against `rclone cat`."""
    with _server(bench) as place:
        place.empty()
        shutil.copyfile(place.source, place.bucket / "one")
        bench.run(place.ours("put"))
        theirs = bench.shell(RCLONE, f"{place.rclone} cat -q s:{BUCKET}/one > /dev/null")
        return bench.compared({RCLONE: 1.1}, [place.ours("get"), theirs], place.size_bytes)


class _Place:
    """Where one comparison happens: source and storage in memory where there is room, so that disks do not count."""

    def __init__(self, folder: Path, port: int, size_bytes: int) -> None:
        self.folder, self.size_bytes = folder, size_bytes
        self.source, self.bucket = folder / "source", folder / "stored" / BUCKET
        endpoint = f"http://127.0.0.1:{port}"
        self.address = f"s3://{BUCKET}/ours?endpoint={endpoint}&region=us-east-1"
        config = folder / "rclone.conf"
        remote = {"type": "s3", "provider": "Rclone", "endpoint": endpoint, "region": "us-east-1"}
        remote |= {"access_key_id": KEYS[0], "secret_access_key": KEYS[1]}
        config.write_text("[s]\n" + "".join(f"{name} = {value}\n" for name, value in remote.items()))
        self.rclone = f"{PROGRAM} --config {config}"

    def ours(self, verb: str, **hooks: Any) -> Side:
        argv = [sys.executable, Path(__file__).with_name("transfer.py"), verb, self.address, self.source]
        env = {"AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1]}
        return Side(OURS, argv, env | {"DATAGUARDIAN_HOME": str(self.folder / "home")}, **hooks)

    def empty(self) -> None:
        for entry in self.bucket.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@contextmanager
def _server(bench: Bench) -> Iterator[_Place]:
    size_bytes = QUICK_BYTES if bench.scale.name == "quick" else FULL_BYTES
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 3 * size_bytes
    folder = (memory if roomy else bench.work) / f"dataguardian-bench-s3-{os.getpid()}"
    (folder / "stored" / BUCKET).mkdir(parents=True)
    try:
        port = _free_port()
        process = _started(folder / "stored", port)
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


def _started(stored: Path, port: int) -> subprocess.Popen[bytes]:
    argv = [PROGRAM, "--config", "/dev/null", "serve", "s3", "--addr", f"127.0.0.1:{port}", "-q"]
    # The folder is emptied behind the server's back between runs, so it must not remember it for long.
    argv += ["--dir-cache-time", "100ms", "--auth-key", ",".join(KEYS), stored]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process
    raise SystemExit("rclone serve s3 does not listen")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
