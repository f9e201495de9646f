"""`python3 -m dataguardian.engines.sqlserver`: a stream on standard input becomes a T-SQL script on standard output."""

from __future__ import annotations

import sys

from dataguardian.domain.errors import DataGuardianError
from dataguardian.engines.sqlserver.checking import script

_READ_BYTES = 1 << 20


def main() -> int:
    chunks = iter(lambda: sys.stdin.buffer.read(_READ_BYTES), b"")
    try:
        for batch in script(chunks):
            sys.stdout.buffer.write(f"{batch}\nGO\n".encode())
    except DataGuardianError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
