"""A recovery kit in words: plain text for paper, whose commands also work when they are pasted into a shell.

Commands stand between a line "```sh" and a line "```", flush left, so that a here-document ends where it should.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dataguardian.domain.clock import to_iso
from dataguardian.domain.sizes import format_size
from dataguardian.service.kit.document import Kit, KitBackup, KitJob, KitStorage
from dataguardian.service.kit.pieces import PREPARE, Piece
from dataguardian.storage.byhand import quoted

WIDTH = 100
_STOCK = (
    "bash 4 or newer, coreutils (sha256sum), tar, age 1.1 or newer, zstd (gzip, lz4), jq, the programs that read the "
    "storages (chapter 3: rclone 1.60 or newer, OpenSSH), and the client programs of the databases, of the version "
    "that each job names."
)
_INSTALLED = {
    "Debian, Ubuntu": "apt install age zstd lz4 jq rclone openssh-client postgresql-client mariadb-client sqlite3",
    "Fedora": "dnf install age zstd lz4 jq rclone openssh-clients postgresql mariadb sqlite",
    "Alpine": "apk add bash coreutils tar age zstd lz4 jq rclone openssh-client postgresql-client sqlite",
    "each by itself": "https://age-encryption.org, https://rclone.org/install; MongoDB: "
    "https://www.mongodb.com/try/download/database-tools; SQL Server: https://aka.ms/sqlpackage",
}
_PROGRAMS = {
    "sftp": "sftp (OpenSSH: apt install openssh-client)",
    "rclone": "rclone (apt install rclone, or https://rclone.org/install)",
    "cp": "cp (coreutils)",
}
_BACK = """
back() {
  [ -e "$2" ] || { mkdir -p "$(dirname "$2")" && cp "$KIT/$1" "$2"; }
}
""".strip().splitlines()
"""Puts a file where a configuration looks for it; one that is there stays."""
_NO_BACKUP = "It has no good backup yet: there is nothing to restore."


def render(kit: Kit) -> str:
    """Returns the document, lines of text that end with a line feed."""
    chapters = (_head, _first, _keys, _storages, _own, _jobs, _others, _foot)
    lines = [line for chapter in chapters for line in chapter(kit)]
    return "".join(f"{line}\n" for line in lines)


def _head(kit: Kit) -> Iterator[str]:
    yield "DATAGUARDIAN RECOVERY KIT"
    yield from _fields(
        {
            "taken": f"{to_iso(kit.taken_at)} by {kit.taken_by} on {kit.host}",
            "DataGuardian": kit.version,
            "secret key": f"{kit.covered.key_id}, from {kit.key_source}",
            "home": kit.home,
            "catalogue": kit.catalogue.address if kit.catalogue else "catalogue.db in the home (SQLite)",
            "time zone": kit.timezone,
            **{f"variable {name}": text for name, text in kit.environment.items()},
        }
    )
    yield ""
    yield from _text(
        "WHOEVER HOLDS THIS DOCUMENT IN CLEAR HOLDS EVERY BACKUP. Keep it where neither the machine nor its "
        "storages are: in a safe, or encrypted on something that you carry."
    )
    yield from _text(
        "It is outdated as soon as a key, a storage location or a job is added. `dataguardian status` says so."
    )
    if kit.gaps:
        yield from _heading("WHAT THIS KIT DOES NOT HAVE")
        for gap in kit.gaps:
            yield from _item(gap)


def _first(kit: Kit) -> Iterator[str]:  # noqa: ARG001 -- a chapter
    yield from _heading("1. FIRST, ON THE NEW MACHINE")
    yield from _text(f"You need {_STOCK}")
    yield from _fields(_INSTALLED)
    yield from _text(
        "Open a shell (bash) in an empty folder on a disk with room for the backups, and enter this. The "
        "folder will hold keys: remove it in the end."
    )
    yield from _commands(PREPARE)


def _keys(kit: Kit) -> Iterator[str]:
    yield from _heading("2. KEYS AND PASSWORDS")
    yield from _text(
        "Each goes into a file of that folder. Where the lines are groups, type them with or without the "
        "spaces; behind the bar is the check of each line. The shell says `right` when all of it is. "
        "`checks k1` shows the checks of the other ones' lines."
    )
    yield from _text("Not every restore needs all of them: the chapters below name those that they use.")
    for piece in kit.pieces:
        yield ""
        yield from _text(f"{piece.name}: {piece.title}")
        if len(piece.line_checks) > 1:
            yield from _text(f"checks of its lines: {' '.join(piece.line_checks)}")
        yield from _commands(piece.commands())


def _storages(kit: Kit) -> Iterator[str]:
    yield from _heading("3. STORAGE LOCATIONS")
    yield from _text(
        "Each block makes two commands: `fetch_s1 DIRECTORY` copies a backup from the storage s1 into this "
        "folder, `names_s1 DIRECTORY` shows what there is in a directory of it, such as the backups of a job."
    )
    for storage in kit.storages:
        yield ""
        yield f"{storage.name}: {storage.title}{' (the default)' if storage.is_default else ''}"
        program = storage.by_hand.program if storage.by_hand else "unknown"
        told = {"type": storage.type, "address": storage.address, "read by": _PROGRAMS.get(program, program)}
        yield from _fields({**told, **storage.fields})
        if storage.by_hand is None:
            yield from _text(
                "No commands are known for storages of this type: copy the directories that chapter 5 names "
                "by a program of its maker's into this folder."
            )
            continue
        yield from (line for gap in storage.by_hand.lacking for line in _item(f"NOT IN THIS KIT: {gap}"))
        yield from (line for note in storage.by_hand.notes for line in _item(note))
        yield from _signs(storage)
        yield from _commands(_functions(storage))


def _signs(storage: KitStorage) -> Iterator[str]:
    """Says what people are asked for, by a program that is too old to take it from a file."""
    asked = storage.by_hand.asked if storage.by_hand else ()
    if asked:
        words = " and ".join(f"the {name} is in {storage.pieces[name].name}" for name in asked)
        yield from _text(f"OpenSSH older than 8.4 asks: {words}.")


def _functions(storage: KitStorage) -> list[str]:
    assert storage.by_hand is not None  # noqa: S101 -- the caller has looked
    lines: list[str] = []
    for verb, body in (("fetch", storage.by_hand.fetch), ("names", storage.by_hand.names)):
        lines += [f"{verb}_{storage.name}() (", *(f"  {_filled(line, storage.pieces)}" for line in body), ")"]
    return lines


def _filled(line: str, pieces: Mapping[str, Piece]) -> str:
    for name, piece in pieces.items():
        line = line.replace(f"\0{name}\0", piece.path)
    return line


def _own(kit: Kit) -> Iterator[str]:
    yield from _heading("4. ALL OF IT, WITH DATAGUARDIAN")
    yield from _text(
        "This brings the service back with every job, password and schedule; it then restores the rest by "
        "itself. Without DataGuardian, go on with chapter 5."
    )
    backed = [job for job in kit.own_jobs if job.backup is not None]
    if not backed:
        yield from _text(
            "The catalogue has no backup of its own, so the service cannot be brought back: define "
            "datasources, storage locations and jobs again as chapters 3 and 5 describe them."
        )
        if kit.catalogue is not None:
            yield from _text(
                f"Unless {kit.catalogue.address} still stands: then {kit.secret_keys[0].name} is "
                f"DATAGUARDIAN_SECRET_KEY, {kit.catalogue.url.name} is DATABASE_URL, and `dataguardian up` has it all."
            )
        return
    yield from _text(
        f"Install release {kit.version}, or a newer one: pip install 'dataguardian[all]=={kit.version}', or "
        "from its sources: pip install '.[all]'. Then:"
    )
    yield from _commands(_revival(kit, backed[0]))
    yield from _catalogue(kit)
    if named := _named(kit):
        yield from _text("Files that its configuration names, as root where their folders need it:")
        yield from _commands([*_BACK, *named])
    yield from _text(
        "Start it: `dataguardian up`. It finds by itself the backups that are newer than its catalogue. Then "
        "`dataguardian job list`, and `dataguardian restore` or `dataguardian execution restore`."
    )


def _catalogue(kit: Kit) -> Iterator[str]:
    if kit.catalogue is not None:
        yield from _text(
            f"The last line restores the catalogue into {kit.catalogue.address}, and refuses a database that is not "
            "empty. When that database still stands, it is not needed: only DATABASE_URL is. Into another one: "
            "write its address into both lines. Set DATABASE_URL wherever the service is started."
        )
        return
    yield from _text(
        f"The home was {kit.home}. Elsewhere, tell the service's own job where things are now: "
        "`dataguardian datasource edit dataguardian --config file_path=$DATAGUARDIAN_HOME/catalogue.db` and "
        "`dataguardian storage edit local --config path=$DATAGUARDIAN_HOME/backups`."
    )


def _named(kit: Kit) -> list[str]:
    """Returns commands that put the files that storages name at their paths."""
    lines = [
        f"back {storage.pieces[name].name} {quoted(path)}"
        for storage in kit.storages
        if storage.by_hand
        for name, path in storage.by_hand.paths.items()
    ]
    return list(dict.fromkeys(lines))


def _revival(kit: Kit, job: KitJob) -> list[str]:
    """Returns commands that put secret key and catalogue into an empty home."""
    assert job.backup is not None  # noqa: S101 -- the caller has looked
    keys = " ".join(piece.path for piece in kit.secret_keys)
    lines = [
        'cd "$KIT"',
        'export DATAGUARDIAN_HOME="${DATAGUARDIAN_HOME:-$HOME/.dataguardian}"',
        'mkdir -m 700 -p "$DATAGUARDIAN_HOME"',
        f'(set -C; cat {keys} > "$DATAGUARDIAN_HOME/secret.key")',  # -C: a key that is there already stays
        *([f'(set -C; cat {kit.pins.path} > "$DATAGUARDIAN_HOME/known_hosts")'] if kit.pins else []),
        *_fetched(job.backup),
    ]
    target, password = '"sqlite://$DATAGUARDIAN_HOME/catalogue.db"', ""
    if kit.catalogue:
        lines.append(f'export DATABASE_URL="$(cat {kit.catalogue.url.path})"')
        target = quoted(kit.catalogue.address)
        password = f" --password-file {kit.catalogue.password.path}" if kit.catalogue.password else ""
    return [*lines, f'dataguardian restore{_opening(job)}{password} "file://$KIT/{job.backup.directory}" {target}']


def _opening(job: KitJob) -> str:
    if job.backup is None or not (job.backup.recipients or job.backup.has_passphrase):
        return ""
    if job.backup.has_passphrase:
        return f" --passphrase-file {job.passphrase.path if job.passphrase else 'FILE-WITH-THE-PASSPHRASE'}"
    return f" --identity-file {job.identity.path if job.identity else 'FILE-WITH-THE-PRIVATE-KEY'}"


def _jobs(kit: Kit) -> Iterator[str]:
    yield from _heading("5. EACH BACKUP, WITH STOCK TOOLS ALONE")
    yield from _text(
        "The commands fetch the newest backup that was good when this kit was taken, check every byte of it, "
        "and restore it. Enter them after chapters 1 to 3. Where the server is another one than this "
        "machine, say so first as its own client programs take it (PGHOST, PGUSER, PGPASSWORD; -h and -u)."
    )
    for job in kit.jobs:
        yield ""
        yield f"JOB {job.title}{'  (the catalogue of DataGuardian itself)' if job.is_own else ''}"
        yield from _fields(job.facts)
        if job.backup is None:
            yield from _text(_NO_BACKUP)
            continue
        yield from _fields(_newest(job.backup))
        yield from _text(_how_opened(job))
        yield from _commands(_by_hand(job, job.backup))
        yield from _text("Or, once it is fetched, with DataGuardian; TARGET is an address such as the one above:")
        yield f'  dataguardian restore{_opening(job)} "file://$KIT/{job.backup.directory}" TARGET'


def _newest(backup: KitBackup) -> dict[str, str]:
    return {
        "newest backup": backup.directory,
        "taken": to_iso(backup.taken_at),
        "checksum": backup.checksum,
        "stored": f"{format_size(backup.size_bytes)}, in {', '.join(backup.storages) or 'no storage that is known'}",
        "taken from": backup.server_version,
        "taken with": ", ".join([f"DataGuardian {backup.version}", *backup.tools]),
    }


def _how_opened(job: KitJob) -> str:
    backup = job.backup
    if backup is None or not (backup.recipients or backup.has_passphrase):
        return ""
    if backup.has_passphrase:
        return (
            f"age asks for the passphrase: it is in {job.passphrase.name}."
            if job.passphrase
            else ("age asks for the passphrase, which is not in this kit.")
        )
    if job.identity:
        return f"Its key is {job.identity.name}."
    return (
        f"ITS PRIVATE KEY IS NOT IN THIS KIT: somebody holds it elsewhere. It is the one of "
        f"{' or '.join(backup.recipients)}. Write the path of its file behind KEY= below."
    )


def _by_hand(job: KitJob, backup: KitBackup) -> list[str]:
    key = []
    if backup.recipients and not backup.has_passphrase:
        key = [f"KEY={job.identity.path if job.identity else '/path/of/the/private/key'}"]
    restore = backup.how_to_restore
    if restore is None:  # nobody could read the manifest: it says itself what to do
        restore = ["jq -r '.how_to_restore[]' manifest.json > restore.sh", "export KEY; bash restore.sh"]
    return [
        'cd "$KIT"',
        *_fetched(backup),
        "(",
        f"cd {shlex.quote(backup.directory)} || exit",
        f"echo '{backup.checksum}  SHA256SUMS' | sha256sum -c || exit",
        *key,
        *restore,
        ")",
    ]


def _fetched(backup: KitBackup) -> list[str]:
    """Returns one line: the nearest storage may have gone with the machine, and then the next one is asked."""
    line = " || ".join(f"fetch_{name} {shlex.quote(backup.directory)}" for name in backup.storages)
    return [line] if line else []


def _others(kit: Kit) -> Iterator[str]:
    yield from _heading("6. ANOTHER BACKUP THAN THE NEWEST ONE, AND NEWER ONES")
    yield from _text(
        "A backup is a directory JOB/TIME-ID-ATTEMPT. What there is of a job, and what a backup's own commands "
        "are, which are run in its directory:"
    )
    first = next((job.backup for job in kit.jobs if job.backup and job.backup.storages), None)
    place, folder = (first.storages[0], first.directory.split("/")[0]) if first else ("s1", "JOB")
    yield from _commands([f"names_{place} {shlex.quote(folder)}"])
    yield from _text(
        f"Fetch one: fetch_{place} {folder}/…; go into its directory; `jq -r '.how_to_restore[]' manifest.json` "
        "shows its commands. A directory without manifest.json is no backup. Nothing else than these files is "
        "needed: docs/format.md describes them."
    )


def _foot(kit: Kit) -> Iterator[str]:
    yield from _heading("THE END")
    yield from _text(
        f"{len(kit.jobs)} jobs, {len(kit.storages)} storage locations, {len(kit.pieces)} keys and passwords. "
        "When all is restored: take a new kit, and destroy this one."
    )


def _heading(text: str) -> Iterator[str]:
    yield from ("", "", text, "=" * len(text))


def _text(text: str) -> Iterator[str]:
    """Yields a paragraph; nothing for no text."""
    yield from textwrap.wrap(_plain(text), WIDTH, break_long_words=False, break_on_hyphens=False)


def _item(text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        _plain(text), WIDTH, initial_indent="* ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _fields(fields: Mapping[str, str]) -> Iterator[str]:
    for name, value in fields.items():
        yield f"  {name + ':':<16} {_plain(value)}"


def _plain(text: str) -> str:
    """Names come from people: what is no visible character could make a line look like a command."""
    return "".join(char if char.isprintable() else "?" for char in text).replace("```", "'''")


def _commands(lines: Iterable[str] | Sequence[str]) -> Iterator[str]:
    yield "```sh"
    yield from lines
    yield "```"
