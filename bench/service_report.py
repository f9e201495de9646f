"""From the service's raw numbers to `results_service.md`: tables, bars, and how busy the machine was meanwhile."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import report

MB = 1_000_000
DUE_BAR_SECONDS = 10
API_BAR_MS = 50
IDLE_BAR_PERCENT = 1
START_BAR_SECONDS = 3
FLAT_GROWTH = 1.5
"""Ten times the rows may take so many times the memory, or FLAT_MB in all: batches differ a little, allocators too."""
FLAT_MB = 30
INSIDES = "memory | loop lag, ms: p50 / p99 / max | load | cores busy"
Row = dict[str, Any]

INTRODUCTION = """# The service, measured

Written by `make bench` (`bench/service.py`), never by hand; raw numbers are in `bench/results_service.json`. `load` is
the machine's load average of the last minute, before and after what was measured; `cores busy` is the share of all
cores that was not idle meanwhile, by us and by everybody else.
"""


def write(known: Row, path: Path) -> None:
    """Writes the whole report for every section that has ever been measured."""
    measured = {name: section for name, section in known["sections"].items() if name in SECTIONS}
    lines = [INTRODUCTION, "## Bars", "", "| what | figure | bar | | load |", "|---|---|---|---|---|"]
    for name, section in measured.items():
        lines += [f"| {' | '.join(cells)} |" for cells in BARS[name](section)]
    for name, section in measured.items():
        title, note, table = SECTIONS[name]
        lines += ["", f"## {title}", "", note, "", *table(section), ""]
        lines += [f"*{section['machine']['date']}, scale `{section['scale']}`*"]
    lines += ["", "## Machine", ""]
    lines += [
        f"- {text}" for text in dict.fromkeys(report.machine_text(section["machine"]) for section in measured.values())
    ]
    path.write_text("\n".join(lines).rstrip() + "\n")


Cells = Iterator[Sequence[str]]


def _due_bars(section: Row) -> Cells:
    for name, run in section["runs"].items():
        what = f"{section['count']} jobs due in one minute, {name}"
        yield (
            what,
            f"{run['seconds']:.1f} s",
            f"{DUE_BAR_SECONDS} s",
            _verdict(run["seconds"] <= DUE_BAR_SECONDS),
            _load(run),
        )


def _api_bars(section: Row) -> Cells:
    for what, run in (("nothing running", section["quiet"]), ("three backups running", section["busy"])):
        p99 = run["waited"]["p99"]
        yield f"API, {what}: p99", f"{p99:.0f} ms", f"{API_BAR_MS} ms", _verdict(p99 <= API_BAR_MS), _load(run)


def _recovery_bars(section: Row) -> Cells:
    least, most = section["counts"]
    for step, what in (("recover", "recovery"), ("look-again", "the reconciler's look at waiting rows")):
        yield _flat(
            f"{what}: {most} rows against {least}",
            section["runs"][f"{step} {least}"],
            section["runs"][f"{step} {most}"],
        )


def _cleanup_bars(section: Row) -> Cells:
    least, most = section["counts"]
    small = section["runs"][f"{least} of 1"]
    yield _flat(f"cleanup's plan: {most} backups of one job against {least}", small, section["runs"][f"{most} of 1"])
    yield _flat(f"cleanup's plan: {most} of 100 jobs against {least} of one", small, section["runs"][f"{most} of 100"])


def _flat(what: str, small: Row, large: Row) -> Sequence[str]:
    grown = [row["growth_bytes"] / MB for row in (small, large)]
    flat = grown[1] <= max(FLAT_MB, FLAT_GROWTH * grown[0])
    return what, f"+{grown[1]:.0f} MB against +{grown[0]:.0f} MB", "flat", _verdict(flat), _load(large)


def _idle_bars(section: Row) -> Cells:
    totals = [window["total_percent"] for window in section["windows"]]
    mean = statistics.fmean(totals)
    figure = f"{mean:.2f} % (worst minute {max(totals):.2f} %)"
    yield (
        "idle, service and queue server",
        figure,
        f"{IDLE_BAR_PERCENT} % of a core",
        _verdict(mean <= IDLE_BAR_PERCENT),
        _load(section),
    )


def _start_bars(section: Row) -> Cells:
    for which in ("first", "second"):
        seconds = statistics.median(entry[which]["seconds"] for entry in section["rounds"])
        what = f"from the start to ready, {which} start, median"
        yield (
            what,
            f"{seconds:.2f} s",
            f"{START_BAR_SECONDS} s",
            _verdict(seconds <= START_BAR_SECONDS),
            _load(section["rounds"][-1]),
        )


def _due_table(section: Row) -> Iterator[str]:
    yield f"| | seconds | processor | jobs a second | rows | queue jobs | by scheduler | {INSIDES} |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name, run in section["runs"].items():
        shares = " + ".join(str(part) for part in run["by_scheduler"])
        cells = [
            name,
            f"{run['seconds']:.2f}",
            f"{run['cpu_seconds']:.1f} s",
            f"{section['count'] / run['seconds']:.0f}",
        ]
        cells += [str(run["rows"]), str(run["queue_jobs"]), shares, *_insides(run)]
        yield f"| {' | '.join(cells)} |"


def _runs_table(section: Row) -> Iterator[str]:
    yield f"| | seconds | processor | {INSIDES} |"
    yield "|---|---|---|---|---|---|---|"
    for name, run in section["runs"].items():
        cells = [name, f"{run['seconds']:.2f}", f"{run['cpu_seconds']:.1f} s", *_insides(run)]
        yield f"| {' | '.join(cells)} |"


def _insides(run: Row) -> Sequence[str]:
    memory = f"{run['before_bytes'] / MB:.0f} + {run['growth_bytes'] / MB:.0f} MB"
    lag = f"{run['lag_median_ms']:.1f} / {run['lag_p99_ms']:.0f} / {run['lag_max_ms']:.0f}"
    return memory, lag, _load(run), _busy(run)


def _api_table(section: Row) -> Iterator[str]:
    quiet, busy = section["quiet"], section["busy"]
    yield "| ms: p50 / p95 / p99 / max | nothing running | three backups running |"
    yield "|---|---|---|"
    for route in quiet["routes"]:
        yield f"| `{route}` | {_quantiles(quiet['routes'][route])} | {_quantiles(busy['routes'][route])} |"
    counts = f"{quiet['all']['count']} and {busy['all']['count']}"
    yield f"| **all routes** ({counts}) | {_quantiles(quiet['all'])} | {_quantiles(busy['all'])} |"
    yield f"| **counted from when due** | {_quantiles(quiet['waited'])} | {_quantiles(busy['waited'])} |"
    yield f"| the client's own waking | {_quantiles(quiet['client_late'])} | {_quantiles(busy['client_late'])} |"
    for what, key in (
        ("the service ran, ms", "processor_ms"),
        ("it waited for a processor, ms", "queued_ms"),
        ("it was woken, times", "wakes"),
    ):
        yield f"| per request, {what} | {quiet['per_request'][key]} | {busy['per_request'][key]} |"
    yield f"| backups running, mean | {quiet['running_mean']} | {busy['running_mean']} |"
    yield f"| load | {_load(quiet)} | {_load(busy)} |"
    yield f"| cores busy | {_busy(quiet)} | {_busy(busy)} |"


def _quantiles(row: Row) -> str:
    return f"{row['p50']:.1f} / {row['p95']:.1f} / **{row['p99']:.1f}** / {row['max']:.0f}"


def _idle_table(section: Row) -> Iterator[str]:
    yield "| window | service | queue server | children | together | wake-ups a second |"
    yield "|---|---|---|---|---|---|"
    for window in section["windows"]:
        percent = window["percent"]
        wakes = ", ".join(f"{name} {count:.0f}" for name, count in window["wakes"].items())
        cells = [f"{percent[name]:.2f} %" for name in ("service", "queue server", "children")]
        yield f"| {window['seconds']:.0f} s | {' | '.join(cells)} | **{window['total_percent']:.2f} %** | {wakes} |"
    yield ""
    yield f"Load {_load(section)}, cores busy {_busy(section)}."


def _start_table(section: Row) -> Iterator[str]:
    yield "| | min / median / max, s | processor, s | load |"
    yield "|---|---|---|---|"
    for which in ("first", "second"):
        seconds = [entry[which]["seconds"] for entry in section["rounds"]]
        cpu = statistics.median(entry[which]["cpu_seconds"] for entry in section["rounds"])
        figures = f"{min(seconds):.2f} / **{statistics.median(seconds):.2f}** / {max(seconds):.2f}"
        loads = [entry["load_before"] for entry in section["rounds"]]
        yield f"| {which} start | {figures} | {cpu:.2f} | {min(loads):.1f} to {max(loads):.1f} |"


def _load(row: Row) -> str:
    return f"{row['load_before']:.1f} → {row['load_after']:.1f}"


def _busy(row: Row) -> str:
    return f"{row['busy_share']:.0%}"


def _verdict(passed: bool) -> str:
    return "pass" if passed else "**miss**"


BARS: dict[str, Callable[[Row], Cells]] = {
    "due": _due_bars,
    "api": _api_bars,
    "recovery": _recovery_bars,
    "cleanup": _cleanup_bars,
    "idle": _idle_bars,
    "start": _start_bars,
}
DUE_NOTE = (
    "Two schedulers of one process look at the same minute at once. Every job is then exactly one row and one queue"
    " job, and a further look finds nothing: that is checked, not only counted. `loop lag`: how late the event loop,"
    " which is the API's too, wakes a task that sleeps 5 ms."
)
API_NOTE = (
    "One client, one connection, 20 requests a second over the routes in turn, against the real service (SQLite,"
    " embedded Valkey, 20,000 executions). Three jobs back up a tree to a local storage and are started again as soon"
    " as they end. An answer counts from when its request was sent, and, in the row that the bar takes, from when it"
    " was due: what a slow answer makes others wait is not hidden."
)
RECOVERY_NOTE = (
    "`recover`: running executions of a dead boot, one per job, are queued again (one in fifty has no try left: it"
    " fails with a notification). `look-again`: the reconciler's look, every 15 seconds, at rows that wait. Memory is"
    " what is resident before plus the peak's growth."
)
IDLE_NOTE = "Percent of one core, after the first backup of itself. Children are probes and backups that came and went."
SECTIONS: dict[str, tuple[str, str, Callable[[Row], Iterator[str]]]] = {
    "due": ("Jobs due in one minute", DUE_NOTE, _due_table),
    "api": ("The API while backups run", API_NOTE, _api_table),
    "recovery": ("Recovery", RECOVERY_NOTE, _runs_table),
    "cleanup": (
        "Cleanup's plan",
        "What retention decides before anything is removed: N backups of M jobs.",
        _runs_table,
    ),
    "idle": ("Idle", IDLE_NOTE, _idle_table),
    "start": ("Start", "From the start of the process to the first 200 of GET /ready.", _start_table),
}
