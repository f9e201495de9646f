"""The dump of MongoDB by the driver, from a server that costs nearly nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import Side
from mongo_canned import served_bytes

if TYPE_CHECKING:
    from sections import Bench

OURS, DRIVER, WIRE = "dataguardian", "pymongo find_raw_batches", "the same replies over a bare socket"
FULL_MEGABYTES, QUICK_MEGABYTES = 1500, 150
HERE = Path(__file__).parent


def dump(bench: Bench) -> dict[str, Any]:
    """MongoDB by the driver: documents of 105 bytes, client on one core"""
    megabytes = QUICK_MEGABYTES if bench.scale.name == "quick" else FULL_MEGABYTES
    with _server(bench, megabytes) as port:
        ways = {OURS: "ours", WIRE: "wire", DRIVER: "driver"}
        sides = [Side(name, [sys.executable, HERE / "mongo_read.py", way, str(port)]) for name, way in ways.items()]
        return bench.compared({WIRE: None, DRIVER: None}, sides, served_bytes(megabytes))


@contextmanager
def _server(bench: Bench, megabytes: int) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    argv = [sys.executable, HERE / "mongo_canned.py", str(port), str(megabytes)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        bench.meter.kept_pids.add(process.pid)
        try:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                raise SystemExit("the canned MongoDB server does not start")
            yield port
        finally:
            bench.meter.kept_pids.discard(process.pid)
            process.kill()
