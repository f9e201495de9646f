"""Runs the command line with another number of lanes than the program would choose: `lanes.py WORKERS ARGUMENT…`."""

import sys

from dataguardian.cli import main
from dataguardian.core import backup
from dataguardian.streams.split import Lanes

if __name__ == "__main__":
    workers = int(sys.argv.pop(1))
    backup.plan_lanes = lambda _size, **_: Lanes(workers, buffers=workers + 1, in_flight=workers + 2, ahead=workers + 1)
    sys.exit(main())
