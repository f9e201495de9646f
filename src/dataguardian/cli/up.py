"""`dataguardian up`: the service, until somebody stops it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from dataguardian import __version__
from dataguardian.cli import output
from dataguardian.cli.client import service_url
from dataguardian.domain.errors import UsageError

if TYPE_CHECKING:
    from dataguardian.service.services import Services
    from dataguardian.settings import Settings

ROLES = ("all", "api", "worker", "scheduler")
LISTENING = ("all", "api")
MAX_PORT = 65535
SETUP_PATH = "/api/setup"
SETUP_HINT = "no user yet: POST {token, name, password} there, or `dataguardian user create NAME --role admin`"


def up(
    *,
    role: Annotated[
        str, typer.Option(metavar=f"[{'|'.join(ROLES)}]", help="What this process does; other roles share its servers.")
    ] = "all",
    host: Annotated[str | None, typer.Option(help="Where to listen: DATAGUARDIAN_HOST, or 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=MAX_PORT, help="On which port: DATAGUARDIAN_PORT, or 8484.")
    ] = None,
) -> None:
    """Run the service: API, workers and scheduler, until SIGTERM or Ctrl-C."""
    import asyncio

    from dataguardian.cli.servicelog import configure_log
    from dataguardian.settings import SECRET_VARIABLES, Settings

    settings = Settings.from_environment()
    for name in SECRET_VARIABLES:  # whatever libraries start, such as a compiler, inherits the rest
        os.environ.pop(name, None)
    settings = replace(settings, host=host or settings.host, port=port or settings.port)
    if role not in ROLES:
        raise UsageError(f"there is no role {role!r}", hint=f"known: {', '.join(ROLES)}")
    configure_log(settings)
    asyncio.run(_serve(settings, role))


async def _serve(settings: Settings, role: str) -> None:
    from dataguardian.bootstrap.service import Role, serve

    async def announce(services: Services) -> None:
        setup_token = await services.setup.issue() if role in LISTENING else None
        _announce(services.context.settings, role, setup_token, is_sqlite=services.context.db.is_sqlite)

    await serve(settings, Role(role), announce)


def _announce(settings: Settings, role: str, setup_token: str | None, *, is_sqlite: bool) -> None:
    """Says that everything answers, once: to a person, or as one JSON line to whatever reads standard output.

    While there is no user, the token with which the first administrator is made follows, here and nowhere else: who
    sees this console may be the administrator, a stranger on the network may not.
    """
    facts = {
        "event": "ready",
        "version": __version__,
        "role": role,
        "url": service_url(settings) if role in LISTENING else None,
        "home": str(settings.home),
        "catalogue": "sqlite" if is_sqlite else "postgresql",
        "queue": "redis" if settings.redis_url else "embedded",
        "pid": os.getpid(),
    }
    if sys.stdout.isatty():
        _show_panel(facts)
        if setup_token is not None:
            _show_setup(str(facts["url"]), setup_token)
        return
    output.show(json.dumps(facts))
    if setup_token is not None:
        setup = {"event": "setup", "url": f"{facts['url']}{SETUP_PATH}", "setup_token": setup_token, "hint": SETUP_HINT}
        output.show(json.dumps(setup))


def _show_setup(url: str, setup_token: str) -> None:
    from rich.panel import Panel
    from rich.text import Text

    text = Text.assemble(
        "There is no user yet. On this machine:\n",
        ("  dataguardian user create NAME --role admin\n", "bold"),
        f"or from wherever the address answers, with the setup token, which counts until there is one:\n"
        f"  POST {url}{SETUP_PATH}\n",
        '  {"token": "',
        (setup_token, "bold"),
        '", "name": "NAME", "password": "…"}\n',
        "Commands of this machine's user need neither.",
    )
    output.show(Panel(text, title="The first administrator", border_style="yellow", expand=False))


def _show_panel(facts: Mapping[str, object]) -> None:
    from rich.panel import Panel
    from rich.text import Text

    from dataguardian.settings import default_home

    lines = [
        ("address    ", facts["url"] or "this role does not listen"),
        ("home       ", facts["home"]),
        ("catalogue  ", facts["catalogue"]),
        ("queue      ", facts["queue"]),
    ]
    words = [(f"{name}{output.visible(value)}\n", "") for name, value in lines]
    elsewhere = "" if facts["home"] == str(default_home()) else f"  export DATAGUARDIAN_HOME={facts['home']}\n"
    next_steps = (
        "\nThe service now backs up its own catalogue once a day. In another terminal:\n"
        f"{output.visible(elsewhere)}"
        "  dataguardian status\n"
        "  dataguardian datasource add shop postgresql://user@host/shop --password-file FILE\n"
        "  dataguardian job add shop --datasource shop --cron '0 3 * * *'\n"
        "  dataguardian job run shop --wait\n"
        "\nCtrl-C stops it and lets running backups end; a second Ctrl-C does not wait."
    )
    text = Text.assemble(*words, (next_steps, "dim") if facts["role"] == "all" else "")
    output.show(Panel(text, title=f"DataGuardian {facts['version']} is up", border_style="green", expand=False))
