"""Measures DataGuardian against the pipelines and programs that it has to match: `make bench`.

Generates its own database and tree (kept for the next run), measures the sections asked for, and writes
`bench/results.json` and `bench/results.md`. Sections that were not measured this time keep their last figures.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import generate
import measure
import report
from sections import DATAGUARDIAN, SECTIONS, Bench
from servers import PostgresServer

HERE = Path(__file__).resolve().parent
QUICK_PAIRS, FULL_PAIRS = 3, 5


def main() -> int:
    options = _options()
    measure.as_installed()
    if not DATAGUARDIAN.exists():
        sys.exit(f"run this with the Python of the environment that DataGuardian is installed in, not {sys.executable}")
    scale = generate.QUICK if options.quick else generate.FULL
    work = (options.work or HERE / "work") / scale.name
    work.mkdir(parents=True, exist_ok=True)
    measure.adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped on the way out
    machine = report.machine(work)
    with _alone(work), PostgresServer(work, fresh=options.fresh) as server:
        _generate(work, server, scale, fresh=options.fresh)
        bench = Bench(work, scale, options.pairs, server, measure.Meter(work, server.pid))
        for name in options.only:
            print(name, flush=True)
            section = SECTIONS[name](bench)
            _keep(options.results, name, {**section, "machine": machine, "scale": scale.name})
    print(f"written: {options.results}.md")
    return 0


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Two benches at once would measure each other."""
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another bench runs in {work}")
        yield


def _generate(work: Path, server: PostgresServer, scale: generate.Scale, *, fresh: bool) -> None:
    print("generating what is not there yet", flush=True)
    tree = work / "tree"
    if fresh and tree.exists():
        tree.rename(work / "tree.building")
    generate.make_tree(tree, scale)
    generate.make_database(server, "shop", scale)


def _keep(results: Path, name: str, section: dict[str, Any]) -> None:
    """Adds one section to what is known, at once: a bench that is stopped keeps what it has measured."""
    path = results.with_suffix(".json")
    known = json.loads(path.read_text()) if path.exists() else {"sections": {}}
    known["sections"][name] = section
    path.write_text(json.dumps(known, indent=1) + "\n")
    report.write(known, results.with_suffix(".md"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the data, 3 rounds, results in the work folder"
    )
    parser.add_argument("--only", type=_names, default=list(SECTIONS), help=f"of: {','.join(SECTIONS)}")
    parser.add_argument("--pairs", type=int, help=f"rounds per comparison (default {FULL_PAIRS})")
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), help="where data are kept (bench/work)")
    parser.add_argument("--results", type=lambda text: Path(text).resolve(), help="without suffix (bench/results)")
    parser.add_argument("--fresh", action="store_true", help="generate the data anew")
    options = parser.parse_args()
    options.pairs = options.pairs or (QUICK_PAIRS if options.quick else FULL_PAIRS)
    quick_results = (options.work or HERE / "work") / "quick-results"
    options.results = options.results or (quick_results if options.quick else HERE / "results")
    return options


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
