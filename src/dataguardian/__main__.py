"""`python -m dataguardian` is the program `dataguardian`."""

from dataguardian.cli import main

main()
