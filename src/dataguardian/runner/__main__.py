"""`python -m dataguardian.runner`: started by the service, never by hand."""

from __future__ import annotations

import sys

from dataguardian.runner.priority import lower_priority

if __name__ == "__main__":
    lower_priority()  # before the program is read, which alone keeps a core busy for a second
    from dataguardian.runner.child import main

    sys.exit(main())
