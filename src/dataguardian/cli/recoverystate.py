"""The recovery kit and the proofs of keys, as `status` shows them."""

from __future__ import annotations

from dataguardian.cli import look, output
from dataguardian.cli.client import Client, Document, ServiceError

KIT = "/api/system/recovery-kit"
PROOFS = "/api/system/key-proofs"
SHOWN_KEY = 24
SHOWN_REASONS = 3


def kit_of(client: Client) -> Document | None:
    """Returns how it is with the kit; None for those who may not see everything."""
    try:
        return client.get(KIT)
    except ServiceError as error:
        if error.word != "forbidden":
            raise
        return None


def proofs_of(client: Client) -> list[Document]:
    return client.rows(PROOFS)


def kit_words(kit: Document) -> str:
    """Returns one line about the kit."""
    if kit["taken_at"] is None:
        return "never taken: dataguardian recovery-kit --output FILE"
    words = f"taken {look.when(kit['taken_at'])} by {kit['taken_by']}"
    if not kit["outdated"]:
        return f"{words}, up to date"
    reasons = [f"{reason['what']} {reason['name']}" for reason in kit["reasons"]]
    more = f" and {len(reasons) - SHOWN_REASONS} more" if len(reasons) > SHOWN_REASONS else ""
    return f"{words}, outdated: new or changed are {', '.join(reasons[:SHOWN_REASONS])}{more}"


def show_proofs(rows: list[Document]) -> None:
    """Shows when each key of each encrypted job last opened a backup."""
    look.show_table(
        ["ENCRYPTED JOB", "KEY", "LAST PROVEN", "BY"],
        [
            [
                row["job_name"],
                _short(key["key"]),
                look.when(key["proven_at"]) if key["proven_at"] else "never",
                f"{key['proven_by'] or look.NOTHING}{' (overdue)' if key['overdue'] else ''}",
            ]
            for row in rows
            for key in row["keys"]
        ],
    )
    for row in rows:
        if failed := row["failed"]:
            output.warn(
                f"{row['job_name']}: no key opened its newest backup {look.when(failed['at'])} ({failed['by']}): "
                f"{failed['message']}"
            )
    if any(key["overdue"] for row in rows for key in row["keys"]):
        output.warn("keys were not proven for long: dataguardian key prove --identity-file FILE")


def _short(key: str) -> str:
    return key if len(key) <= SHOWN_KEY else f"{key[:SHOWN_KEY]}…"
