"""`python -m dataguardian.runner`: started by the service, never by hand."""

from __future__ import annotations

import sys

from dataguardian.runner.child import main

if __name__ == "__main__":
    sys.exit(main())
