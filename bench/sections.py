"""What is measured, section by section. Each returns plain numbers; `report.py` makes tables of them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import codecs_table
import generate
import mongodb
import s3
import sftp
from generate import Scale
from measure import Cost, Meter, Side
from servers import PostgresServer

OURS = "dataguardian"
DATAGUARDIAN = Path(sys.executable).parent / "dataguardian"
ZSTD3 = ("--compression", "zstd", "--level", "3", "--json")
GIB = 1 << 30
Section = dict[str, Any]


@dataclass
class Bench:
    """The work folder, the database server in it, and what the command line asked for."""

    work: Path
    scale: Scale
    pairs: int
    server: PostgresServer
    meter: Meter
    _sizes: dict[str, int] = field(default_factory=dict)

    @property
    def tree(self) -> Path:
        return self.work / "tree"

    @property
    def out(self) -> Path:
        return self.work / "out"

    def ours(self, verb: str, *arguments: str, name: str = OURS, **hooks: Callable[[], object]) -> Side:
        return Side(name, [DATAGUARDIAN, verb, *arguments], self.server.env, **hooks)

    def backup(self, source: str, *options: str, name: str = OURS) -> Side:
        """A backup into an empty storage, which is removed afterwards."""
        arguments = (source, f"file://{self.out}", *ZSTD3, *options)
        return self.ours("backup", *arguments, name=name, before=self.empty, after=lambda: self.sized(name))

    def shell(self, name: str, pipeline: str, **hooks: Callable[[], object]) -> Side:
        """A pipeline as an administrator writes it. `$OUT` is where it leaves things."""
        env = {**self.server.env, "OUT": str(self.out), "TREE": str(self.tree), "LC_ALL": "C"}
        return Side(name, ["bash", "-c", f"set -eo pipefail; {pipeline}"], env, **hooks)

    def shell_backup(self, name: str, pipeline: str) -> Side:
        return self.shell(name, pipeline, before=self.empty, after=lambda: self.sized(name))

    def empty(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)

    def sized(self, name: str) -> None:
        """Notes how much a run has stored, and removes it."""
        self._sizes[name] = generate.tree_size(self.out)[1]
        shutil.rmtree(self.out)

    def tree_is_read(self, side: Side) -> Side:
        """The side, with the tree read just before each run: a machine that takes its page cache back from whoever
        pauses would otherwise measure the disk, in a different state for every side."""

        def before() -> None:
            side.before()
            subprocess.run(["bash", "-c", 'tar cf - -C "$0" . | cat > /dev/null', self.tree], check=True)

        return replace(side, before=before)

    def compared(self, bars: dict[str, float | None], sides: Sequence[Side], raw_bytes: int) -> Section:
        """Runs the sides in interleaved rounds. `bars`: the first side against each of these, and what it may take."""
        self._sizes.clear()
        costs = self.meter.rounds(sides, self.pairs)
        return {
            "pairs": self.pairs,
            "raw_bytes": raw_bytes,
            "sides": {name: [asdict(cost) for cost in runs] for name, runs in costs.items()},
            "stored_bytes": {side.name: self._sizes[side.name] for side in sides if side.name in self._sizes},
            "bars": bars,
            "ours": sides[0].name,
        }

    def run(self, side: Side) -> Cost:
        cost = self.meter.cost(side)
        print(f"  (preparing: {side.name} {cost.wall_seconds:.1f} s)", flush=True)
        return cost

    @contextmanager
    def kept(self, source: str) -> Iterator[tuple[str, int]]:
        """One backup that stays for the block: yields (its address, its raw bytes)."""
        folder = self.work / "kept"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.run(self.ours("backup", source, f"file://{folder}", *ZSTD3))
        told = json.loads(self.meter.output())
        try:
            yield told["backup"], told["size_bytes"]
        finally:
            shutil.rmtree(folder)

    @property
    def database_url(self) -> str:
        return self.server.url("shop")

    @property
    def dump_bytes(self) -> int:
        """Size of the database's dump, uncompressed."""
        if "dump" not in self._sizes:
            command = ["bash", "-c", "pg_dump -Fc -Z0 shop | wc -c"]
            done = subprocess.run(command, env={**os.environ, **self.server.env}, check=True, stdout=subprocess.PIPE)
            self._sizes["dump"] = int(done.stdout)
        return self._sizes["dump"]

    @property
    def tree_bytes(self) -> int:
        return generate.tree_size(self.tree)[1]


DUMP = "pg_dump -Fc -Z0 | zstd -3 -T0 | sha256sum"
TAR = "tar | zstd -3 -T0 | sha256sum"


def postgres(bench: Bench) -> Section:
    """PostgreSQL to a local storage."""
    pipeline = 'pg_dump -Fc -Z0 shop | zstd -q -3 -T0 | tee >(sha256sum > "$OUT/sum") > "$OUT/shop.zst"'
    sides = [bench.backup(bench.database_url), bench.shell_backup(DUMP, pipeline)]
    return bench.compared({DUMP: 1.0}, sides, bench.dump_bytes)


def files(bench: Bench) -> Section:
    """A tree to a local storage."""
    pipeline = 'tar cf - -C "$TREE" . | zstd -q -3 -T0 | tee >(sha256sum > "$OUT/sum") > "$OUT/tree.zst"'
    sides = [bench.backup(f"files://{bench.tree}"), bench.shell_backup(TAR, pipeline)]
    return bench.compared({TAR: 1.0}, [bench.tree_is_read(side) for side in sides], bench.tree_bytes)


def files_peers(bench: Bench) -> Section:
    """The first backup of a tree, against programs that deduplicate."""
    restic, borg = _restic(bench, 'backup -q "$TREE"'), _borg(bench, '"$TREE"')
    sides = [bench.backup(f"files://{bench.tree}"), *restic, *borg]
    sides = [bench.tree_is_read(side) for side in sides]
    return bench.compared({"restic": 0.4, "borg": 0.25}, sides, bench.tree_bytes)


def postgres_peers(bench: Bench) -> Section:
    """The first backup of a dump, against programs that read it from standard input."""
    dump = "pg_dump -Fc -Z0 shop"
    restic, borg = _restic(bench, "backup -q --stdin", dump), _borg(bench, "-", dump)
    sides = [bench.backup(bench.database_url), *restic, *borg]
    return bench.compared({"restic": None, "borg": None}, sides, bench.dump_bytes)


def restore(bench: Bench) -> Section:
    """PostgreSQL from a local storage into a new database."""
    theirs, target, dump = "zstd -d | pg_restore", "restored", bench.work / "shop.zst"
    bench.run(bench.shell("dump", f"pg_dump -Fc -Z0 shop | zstd -q -f -3 -T0 -o {shlex.quote(str(dump))}"))

    def gone() -> None:
        bench.server.drop(target)

    def created() -> None:
        gone()
        bench.server.sql(f"CREATE DATABASE {target}", "CHECKPOINT")

    with bench.kept(bench.database_url) as (backup, raw_bytes):
        ours = bench.ours("restore", backup, bench.server.url(target), "--json", before=gone, after=gone)
        pipeline = f"zstd -q -dc {shlex.quote(str(dump))} | pg_restore -d {target}"
        section = bench.compared(
            {theirs: 1.05}, [ours, bench.shell(theirs, pipeline, before=created, after=gone)], raw_bytes
        )
    dump.unlink()
    return section


def restore_files(bench: Bench) -> Section:
    """A tree from a local storage into a new folder."""
    theirs, archive, target = "zstd -d | tar x", bench.work / "tree.zst", bench.out / "tree"
    bench.run(bench.shell("archive", f'tar cf - -C "$TREE" . | zstd -q -f -3 -T0 -o {shlex.quote(str(archive))}'))
    with bench.kept(f"files://{bench.tree}") as (backup, raw_bytes):
        ours = bench.ours("restore", backup, f"files://{target}", "--json", before=bench.empty, after=bench.empty)
        pipeline = f'mkdir "$OUT/tree"; zstd -q -dc {shlex.quote(str(archive))} | tar xf - -C "$OUT/tree"'
        sides = [ours, bench.shell(theirs, pipeline, before=bench.empty, after=bench.empty)]
        section = bench.compared({theirs: None}, sides, raw_bytes)
    archive.unlink()
    return section


CLEAR = "dataguardian, not encrypted"


def encrypted(bench: Bench) -> Section:
    """PostgreSQL to a local storage, encrypted."""
    sides = [bench.backup(bench.database_url, *_recipient(bench)), bench.backup(bench.database_url, name=CLEAR)]
    return bench.compared({CLEAR: 1.15}, sides, bench.dump_bytes)


def encrypted_noise(bench: Bench) -> Section:
    """A tree of what does not compress to a local storage, encrypted."""
    noise = bench.work / "noise"
    noise.mkdir(exist_ok=True)
    try:
        for number in range(bench.scale.big_files):
            with (noise / str(number)).open("wb") as file:
                for _ in range(bench.scale.big_mib):
                    file.write(os.urandom(1 << 20))
        sides = [bench.backup(f"files://{noise}", *_recipient(bench)), bench.backup(f"files://{noise}", name=CLEAR)]
        return bench.compared({CLEAR: 1.15}, sides, generate.tree_size(noise)[1])
    finally:
        shutil.rmtree(noise)


def _recipient(bench: Bench) -> tuple[str, str]:
    """Returns the options that encrypt for one X25519 key, made anew."""
    key = bench.work / "key"
    key.unlink(missing_ok=True)
    done = subprocess.run([DATAGUARDIAN, "key", "generate", key, "--json"], check=True, stdout=subprocess.PIPE)
    return "--recipient", json.loads(done.stdout)["recipient"]


def verify(bench: Bench) -> Section:
    """Verify and deep verify of a PostgreSQL backup."""
    with bench.kept(bench.database_url) as (backup, raw_bytes):
        sides = [bench.ours("verify", backup, "--json", name="verify")]
        sides += [bench.ours("verify", backup, "--deep", "--json", name="verify --deep")]
        return bench.compared({}, sides, raw_bytes)


def startup(bench: Bench) -> Section:
    """What starting the program costs, whatever it then does: part of every figure here."""
    return bench.compared({}, [bench.ours("--help", name="dataguardian --help")], 0)


def parts(bench: Bench) -> Section:
    """Part sizes and lanes, on the same database."""
    sides = [bench.backup(bench.database_url, "--part-size", f"{mib}MiB", name=f"{mib} MiB") for mib in (8, 16, 32)]
    for workers in (1, 2, 3):
        usual = bench.backup(bench.database_url, name=f"16 MiB, {workers} workers")
        argv = [sys.executable, Path(__file__).with_name("lanes.py"), str(workers), *usual.argv[1:]]
        sides.append(Side(usual.name, argv, usual.env, usual.before, usual.after))
    return bench.compared({}, sides, bench.dump_bytes)


def codecs(bench: Bench) -> Section:
    """Compression libraries on one core."""
    command = ["bash", "-c", f"pg_dump -Fc -Z0 shop | head -c {codecs_table.SAMPLE_BYTES * 3}"]
    dump = subprocess.run(command, env={**os.environ, **bench.server.env}, check=True, stdout=subprocess.PIPE).stdout
    sample = dump[len(dump) // 3 : len(dump) // 3 + codecs_table.SAMPLE_BYTES]
    return {"rows": codecs_table.measure(sample)}


def memory(bench: Bench) -> Section:
    """Peak resident memory, for the data and for ten times the data."""
    runs = [_memory(bench, "postgres backup", bench.backup(bench.database_url), bench.dump_bytes)]
    runs += _tenfold_database(bench)
    runs += [_memory(bench, "files backup", bench.backup(f"files://{bench.tree}"), bench.tree_bytes)]
    runs += _tenfold_tree(bench)
    runs += _reading(bench, "postgres", bench.database_url, bench.server.url("restored"))
    runs += _reading(bench, "files", f"files://{bench.tree}", f"files://{bench.out}/restored")
    return {"runs": runs, "bar_bytes": 200_000_000, "bar_growth": 1.05}


def _reading(bench: Bench, what: str, source: str, target: str) -> list[Section]:
    """Deep verify and restore: the big files that do not compress are the hard case."""
    bench.server.drop("restored")
    bench.empty()
    try:
        with bench.kept(source) as (backup, raw_bytes):
            verified = bench.ours("verify", backup, "--deep", "--json")
            restored = bench.ours("restore", backup, target, "--json")
            return [
                _memory(bench, f"{what} verify --deep", verified, raw_bytes),
                _memory(bench, f"{what} restore", restored, raw_bytes),
            ]
    finally:
        bench.server.drop("restored")
        bench.empty()


def _tenfold_database(bench: Bench) -> list[Section]:
    what = "postgres backup, ten times the data"
    if (skipped := _no_room(bench, bench.dump_bytes)) is not None:
        return [{"what": what, "skipped": skipped}]
    generate.make_tenfold(bench.server, "shop", "shop_tenfold")
    try:
        return [_memory(bench, what, bench.backup(bench.server.url("shop_tenfold")))]
    finally:
        bench.server.drop("shop_tenfold")


def _tenfold_tree(bench: Bench) -> list[Section]:
    what = "files backup, ten times the data"
    if (skipped := _no_room(bench, bench.tree_bytes)) is not None:
        return [{"what": what, "skipped": skipped}]
    tenfold = bench.work / "tree_tenfold"
    generate.make_tenfold_tree(tenfold, bench.tree)
    try:
        return [_memory(bench, what, bench.backup(f"files://{tenfold}"))]
    finally:
        shutil.rmtree(tenfold)


def _no_room(bench: Bench, size_bytes: int) -> str | None:
    """Ten times the data, as a source and stored, and some room to spare."""
    needed, free = size_bytes * 20 + 5 * GIB, shutil.disk_usage(bench.work).free
    return None if free >= needed else f"skipped: needs {needed >> 30} GiB free on disk, there are {free >> 30}"


def _memory(bench: Bench, what: str, side: Side, raw_bytes: int | None = None) -> Section:
    peaks = bench.meter.memory(side)
    told = json.loads(bench.meter.output())
    print(f"  {what:40} {peaks.main_bytes / 1e6:7.1f} MB", flush=True)
    return {"what": what, "raw_bytes": told.get("size_bytes", raw_bytes), **asdict(peaks)}


def _restic(bench: Bench, arguments: str, source: str = "") -> list[Side]:
    """restic with its defaults and a repository of its own each time; empty when it is not installed."""
    if shutil.which("restic") is None:
        return []
    env = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(bench.work / "restic-cache")}
    pipeline = f'restic -r "$OUT/repo" {arguments}'
    return [
        _peer(bench, "restic", f"{source} | {pipeline}" if source else pipeline, 'restic -q -r "$OUT/repo" init', env)
    ]


def _borg(bench: Bench, what: str, source: str = "") -> list[Side]:
    if shutil.which("borg") is None:
        return []
    env = {"BORG_BASE_DIR": str(bench.work / "borg"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    pipeline = f'borg create --compression zstd,3 "$OUT/repo::first" {what}'
    return [
        _peer(bench, "borg", f"{source} | {pipeline}" if source else pipeline, 'borg init -e none "$OUT/repo"', env)
    ]


def _peer(bench: Bench, name: str, pipeline: str, init: str, env: dict[str, str]) -> Side:
    usual = bench.shell_backup(name, pipeline)
    env = {**usual.env, **env}

    def before() -> None:
        bench.empty()
        subprocess.run(["bash", "-c", init], env={**os.environ, **env}, check=True, stdout=subprocess.DEVNULL)

    return Side(name, usual.argv, env, before, usual.after)


SECTIONS: dict[str, Callable[[Bench], Section]] = {
    "postgres": postgres,
    "files": files,
    "encrypted": encrypted,
    "encrypted-noise": encrypted_noise,
    "files-peers": files_peers,
    "restore": restore,
    "memory": memory,
    "verify": verify,
    "restore-files": restore_files,
    "postgres-peers": postgres_peers,
    "startup": startup,
    "s3-upload": s3.upload,
    "s3-download": s3.download,
    "sftp-upload": sftp.upload,
    "sftp-download": sftp.download,
    "mongodb": mongodb.dump,
    "codecs": codecs,
    "parts": parts,
}
