"""What a test of a datasource, a storage location or a channel found."""

from __future__ import annotations

from dataguardian.cli import look, output
from dataguardian.cli.client import Document
from dataguardian.domain.errors import AccessError


def show_probe(name: str, found: Document, *, as_json: bool) -> int:
    """Prints the outcome of a test; returns the exit code."""
    good = found["status"] == "ok"
    if as_json:
        output.show_json(found)
    else:
        facts = {key: _text(key, value) for key, value in found["metadata"].items() if value is not None}
        output.show_fields(
            f"{name} answers" if good else f"{name} does NOT answer: {found['status']}",
            {"took": f"{found['latency_ms']:.0f} ms"}
            | ({"message": found["message"]} if found["message"] else {})
            | facts,
            style="bold green" if good else "bold red",
        )
    return 0 if good else AccessError.exit_code


def _text(key: str, value: object) -> object:
    return look.size(value) if key.endswith("_bytes") and isinstance(value, int | float) else value
