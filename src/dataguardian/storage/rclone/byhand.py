"""A folder of an rclone remote, read by rclone itself: with its whole configuration, and the files that this names."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dataguardian.storage.byhand import ByHand, content_of, in_file, quoted, rclone_commands

if TYPE_CHECKING:
    from dataguardian.storage.rclone import RcloneConfig

_OPTION = re.compile(r"\s*(\w+)\s*=\s*(.*?)\s*")
_ENCRYPTED = "RCLONE_ENCRYPT_V"
_MOST_CHARACTERS = 64 * 1024
"""Of a file that an option names: keys and certificates are shorter."""
_SECONDS = 30


@dataclass
class _Found:
    """What rclone is told: `lines` prepare it, the rest is as in ByHand."""

    lines: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)

    def add_named(self, option: str, value: str) -> str | None:
        """Returns the name of the file that an option names, whose text is kept; None when it names none."""
        path = Path(os.path.expandvars(value)).expanduser()
        if not path.is_absolute() or path.is_dir():
            return None
        known = next((name for name, place in self.paths.items() if place == str(path)), None)
        if known is not None:
            return known
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            text = None
        if text is None or len(text) > _MOST_CHARACTERS:
            if option.lower().endswith("_file"):
                self.lacking.append(f"the file {path}, which rclone's option {option} names")
            return None
        name = f"file {len(self.paths) + 1} of rclone"
        self.files[name], self.paths[name] = text, str(path)
        return name


def commands(config: RcloneConfig) -> ByHand:
    """Returns commands with rclone's whole configuration, because one remote may stand on another."""
    found = _Found()
    _add_variables(found, config.remote)
    password = config.config_password.get_secret_value() if config.config_password else None
    password = password or os.environ.get("RCLONE_CONFIG_PASS")
    place = _place(config.config_file)
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        if not found.lines:
            found.lacking.append(f"rclone's configuration {place} could not be read")
    else:
        _add_configuration(found, place, text, password)
    made = rclone_commands(f"{config.remote}:{config.path}", found.lines, files=found.files)
    return replace(made, paths=found.paths, notes=found.notes, lacking=found.lacking)


def _place(config_file: str | None) -> Path:
    usual = Path.home() / ".config" / "rclone" / "rclone.conf"
    return Path(config_file or os.environ.get("RCLONE_CONFIG") or usual).absolute()


def _add_variables(found: _Found, remote: str) -> None:
    """Takes a remote that the environment defines: each option of it is a variable."""
    prefix = f"RCLONE_CONFIG_{remote.upper().replace('-', '_')}_"
    for name, value in sorted(os.environ.items()):
        if not name.startswith(prefix):
            continue
        named = found.add_named(name, value)
        if named is None:
            found.files[name.lower()] = value
        word = content_of(name.lower()) if named is None else in_file(named)
        found.lines.append(f"export {name}={word}")


def _add_configuration(found: _Found, place: Path, text: str, password: str | None) -> None:
    if _ENCRYPTED in text:
        opened = _opened(place, password)
        if opened is None:
            found.lacking.append(f"files that rclone's configuration {place} names: it could not be opened")
        else:
            text = opened
            found.notes.append(f"rclone's configuration was encrypted in {place}: here it is in clear")
    if _ENCRYPTED in text and password:
        found.files["config_password"] = password
        found.lines.append(f"export RCLONE_CONFIG_PASS={content_of('config_password')}")
    lines = [line for line in text.splitlines() if line.strip()]
    text = "".join(f"{line}\n" for line in lines)
    found.files["config"], found.paths["config"] = text, str(place)
    # A copy, because rclone writes into it, and where files of the old machine lie elsewhere.
    found.lines += [
        'export RCLONE_CONFIG="$(mktemp -p "$KIT")"',
        "while IFS= read -r line; do",
        *_replacing(found, lines),
        "  printf '%s\\n' \"$line\"",
        f'done < {in_file("config")} > "$RCLONE_CONFIG"',
    ]


def _replacing(found: _Found, lines: list[str]) -> list[str]:
    """Returns lines for bash that give the files of this kit to the options that named others."""
    cases = []
    for line in dict.fromkeys(lines):
        match = _OPTION.fullmatch(line)
        named = found.add_named(match[1], match[2]) if match else None
        if match and named is not None:
            cases.append(f"    {quoted(line)}) line={quoted(f'{match[1]} = ')}{in_file(named)} ;;")
    return ['  case "$line" in', *cases, "  esac"] if cases else []


def _opened(place: Path, password: str | None) -> str | None:
    """Returns an encrypted configuration in clear, as rclone shows it; None when it does not open."""
    from dataguardian.storage.rclone.daemon import look_for_program  # noqa: PLC0415 -- only where it is encrypted

    program = look_for_program()
    if program is None:
        return None
    given = {"RCLONE_CONFIG": str(place), **({"RCLONE_CONFIG_PASS": password} if password else {})}
    try:
        done = subprocess.run(  # noqa: S603 -- rclone, with arguments of ours
            [program, "config", "show", "--ask-password=false"],
            env={**os.environ, **given},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout
