"""What the bench backs up: a database and a tree, the same bytes on every machine, made in about a minute.

Text is words of a made-up language in stock phrases, so that it compresses like records and logs do (about 4x with
zstd 3), and never repeats within the compressor's window by accident of the generator.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servers import PostgresServer

SYLLABLES = ("ka", "lo", "mi", "ren", "ta", "vis", "or", "del", "su", "pan", "e", "tor", "ish", "ba", "nu", "gra")
MIB = 1 << 20
BATCH = 1000
PHRASES = 12
SMALL_FILE_BYTES = (200, 10_000)


@dataclass(frozen=True)
class Scale:
    """How much there is: rows and pgbench's scale make the database, the rest the tree."""

    name: str
    rows: int
    pgbench: int
    small_files: int
    big_files: int
    big_mib: int


FULL = Scale("full", rows=3_000_000, pgbench=20, small_files=100_000, big_files=4, big_mib=200)
QUICK = Scale("quick", rows=300_000, pgbench=2, small_files=10_000, big_files=2, big_mib=40)


def phrases(chooser: random.Random) -> list[str]:
    """Returns phrases of four words to draw from evenly: 30,000 of them, common ones many times, as in real text."""
    words = ["".join(chooser.choices(SYLLABLES, k=chooser.randint(1, 4))) for _ in range(4000)]
    stock = [" ".join(chooser.choices(words, k=4)) for _ in range(30_000)]
    return chooser.choices(stock, weights=[1 / (rank + 20) for rank in range(len(stock))], k=1 << 17)


def rows(seed: int, first: int, count: int) -> Iterator[str]:
    """Yields batches of lines in COPY's text format: id, uuid, time, customer, amount, state, note."""
    stock = phrases(random.Random(1))
    chooser = random.Random(seed)
    pick, uniform, bits = chooser.choices, chooser.random, chooser.getrandbits
    states = ("new", "paid", "packed", "shipped", "returned", "closed")
    for start in range(first, first + count, BATCH):
        notes = pick(stock, k=BATCH * PHRASES)
        lines = []
        for index in range(BATCH):
            note = notes[index * PHRASES : (index + 1) * PHRASES]
            number, code = start + index, f"{bits(128):032x}"
            day = f"2026-{1 + number % 12:02}-{1 + number // 12 % 28:02}"
            when = f"{day} {number // 3600 % 24:02}:{bits(8) % 60:02}:{bits(8) % 60:02}.{bits(19):06}+00"
            lines.append(
                f"{number}\t{code[:8]}-{code[8:12]}-4{code[13:16]}-a{code[17:20]}-{code[20:]}\t{when}\t"
                f"{note[0]}\t{uniform() * 5000:.2f}\t{states[bits(8) % 6]}\t{' '.join(note[1:])}\n"
            )
        yield "".join(lines)


def make_database(server: PostgresServer, database: str, scale: Scale) -> None:
    """Fills `database` unless it is there: pgbench's tables, and orders of about 450 bytes each, with two indexes."""
    if server.has(database):
        return
    building = f"{database}_building"
    server.drop(building)
    server.sql(f'CREATE DATABASE "{building}"')
    env = {**os.environ, **server.env}
    pgbench: list[str | Path] = [server.bin / "pgbench", "-i", "-q", "-s", str(scale.pgbench), building]
    subprocess.run(pgbench, env=env, check=True, stderr=subprocess.DEVNULL)
    server.sql(
        "CREATE TABLE orders (id bigint, ref uuid, placed_at timestamptz, customer text, amount numeric(12,2),"
        " state text, note text)",
        database=building,
    )
    half = scale.rows // 2
    loaders = [_load(server, building, seed, first, half) for seed, first in ((11, 1), (12, half + 1))]
    if {loader.wait() for loader in loaders} != {0}:
        raise SystemExit("the bench could not fill its database")
    server.sql(
        "ALTER TABLE orders ADD PRIMARY KEY (id)",
        "CREATE INDEX ON orders (placed_at)",
        "VACUUM ANALYZE",
        database=building,
    )
    server.sql(f'ALTER DATABASE "{building}" RENAME TO "{database}"', "CHECKPOINT")


def make_tenfold(server: PostgresServer, source: str, database: str) -> None:
    """Makes `database` a copy of `source` whose orders are there ten times, in ten tables."""
    if server.has(database):
        return
    building = f"{database}_building"
    server.drop(building)
    server.sql(f'CREATE DATABASE "{building}" TEMPLATE "{source}" STRATEGY file_copy')
    server.sql(*(f"CREATE TABLE orders_{copy} AS TABLE orders" for copy in range(2, 11)), database=building)
    server.sql(f'ALTER DATABASE "{building}" RENAME TO "{database}"', "CHECKPOINT")


def make_tree(root: Path, scale: Scale) -> None:
    """Writes the tree unless it is there: small text files in 2,000 folders, and big files, every second random."""
    if root.exists():
        return
    building = root.with_name(root.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    chooser = random.Random(2)
    text = _text(chooser, 48 * MIB)
    for number in range(scale.small_files):
        folder = building / f"d{number % 40:02}" / f"e{number // 40 % 50:02}"
        if number < 2000:
            folder.mkdir(parents=True, exist_ok=True)
        size, start = chooser.randint(*SMALL_FILE_BYTES), chooser.randrange(len(text) - SMALL_FILE_BYTES[1])
        (folder / f"f{number}.txt").write_bytes(text[start : start + size])
    for number in range(scale.big_files):
        with (building / f"big{number}.bin").open("wb") as file:
            for _ in range(scale.big_mib):
                start = chooser.randrange(len(text) - MIB)
                file.write(chooser.randbytes(MIB) if number % 2 else text[start : start + MIB])
    building.rename(root)


def make_tenfold_tree(root: Path, source: Path) -> None:
    """Copies a tree ten times: real copies, since tar stores a hard link only once."""
    if root.exists():
        return
    building = root.with_name(root.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    for copy in range(10):
        subprocess.run(["cp", "-r", source, building / f"copy{copy}"], check=True)
    building.rename(root)


def tree_size(root: Path) -> tuple[int, int]:
    """Returns (files, bytes)."""
    sizes = [os.lstat(Path(folder, name)).st_size for folder, _, names in os.walk(root) for name in names]
    return len(sizes), sum(sizes)


def _load(server: PostgresServer, database: str, seed: int, first: int, count: int) -> subprocess.Popen[bytes]:
    maker = subprocess.Popen([sys.executable, __file__, str(seed), str(first), str(count)], stdout=subprocess.PIPE)
    copy: list[str | Path] = [
        server.bin / "psql",
        "-qX",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        database,
        "-c",
        "COPY orders FROM STDIN",
    ]
    return subprocess.Popen(copy, stdin=maker.stdout, env={**os.environ, **server.env})


def _text(chooser: random.Random, size_bytes: int) -> bytes:
    stock = phrases(chooser)
    return "\n".join(chooser.choices(stock, k=size_bytes // 20)).encode()[:size_bytes]


if __name__ == "__main__":
    for batch in rows(*(int(argument) for argument in sys.argv[1:4])):
        sys.stdout.write(batch)
