"""Secrets as a person can type them from paper: in short groups, each line with a check, the whole with another."""

from __future__ import annotations

import base64
import hashlib
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

GROUP_LENGTH = 4
GROUPS_IN_LINE = 7
LINE_CHECK_LENGTH = 4
CHECK_LENGTH = 8
_CODE_WIDTH = 64
_END, _FENCE = "END-OF-", "```"
_TYPED = frozenset(string.ascii_letters + string.digits + string.punctuation) - {"|"}

PREPARE = r"""
set +o history +H
umask 077
export KIT="$PWD"
typed() {
  local line check number=0 wrong=0
  : > "$KIT/$1"
  while IFS='|' read -r line check; do
    number=$((number + 1)) line="${line// /}" check="${check// /}"
    [ "$(printf %s "$line" | sha256sum | cut -c1-4)" = "$check" ] || { echo "$1: line $number is WRONG"; wrong=1; }
    printf %s "$line" >> "$KIT/$1"
  done
  echo >> "$KIT/$1"
  [ $wrong = 0 ] && judge "$1" "$2"
}
exact() {
  cat > "$KIT/$1"
  judge "$1" "$2"
}
coded() {
  base64 -d > "$KIT/$1"
  judge "$1" "$2"
}
judge() {
  if [ "$(sha256sum < "$KIT/$1" | cut -c1-8)" = "$2" ]; then echo "$1: right"; else echo "$1: WRONG"; return 1; fi
}
checks() {
  while IFS= read -r line; do printf %s "$line" | sha256sum | cut -c1-4; done < "$KIT/$1" | paste -sd' '
}
""".strip().splitlines()
"""What the kit's commands stand on, for bash, which is to remember none of them: `typed` reads groups, `exact` lines as
they are, `coded` base64; each says whether what was typed is what was meant. `checks` shows those of lines.
"""


@dataclass(frozen=True)
class Piece:
    """A text that goes into a file of the kit's folder. `verbatim`: spaces may belong to it, or people type it."""

    name: str
    title: str
    text: str = field(repr=False)
    verbatim: bool = False

    @property
    def path(self) -> str:
        """Returns bash's word for the file."""
        return f'"$KIT/{self.name}"'

    @property
    def is_grouped(self) -> bool:
        return not self.verbatim and set(self.text) <= _TYPED

    @property
    def is_plain(self) -> bool:
        """False for what could end its block, or does not show on paper: then base64 stands for it."""
        return all(line.isprintable() and not line.startswith((_FENCE, _END)) for line in self._lines)

    def commands(self) -> list[str]:
        """Returns the lines, for bash, that write the file."""
        end = f"{_END}{self.name.upper()}"
        verb, lines = self._written()
        return [f"{verb} {self.name} {self.check} <<'{end}'", *lines, end]

    def _written(self) -> tuple[str, list[str]]:
        if self.is_grouped:
            return "typed", list(_grouped(self.text))
        if self.is_plain:
            return "exact", self._lines
        code = base64.b64encode("".join(f"{line}\n" for line in self._lines).encode("utf-8", "surrogatepass")).decode()
        return "coded", [code[start : start + _CODE_WIDTH] for start in range(0, len(code), _CODE_WIDTH)]

    @property
    def check(self) -> str:
        return _hash("".join(f"{line}\n" for line in self._lines))[:CHECK_LENGTH]

    @property
    def line_checks(self) -> Sequence[str]:
        """Returns a check per line, where the lines themselves have none."""
        return [] if self.is_grouped or not self.is_plain else [_hash(line)[:LINE_CHECK_LENGTH] for line in self._lines]

    @property
    def _lines(self) -> list[str]:
        return self.text.removesuffix("\n").split("\n")


def _grouped(text: str) -> Iterator[str]:
    """Yields lines such as `abcd efgh … | 3f1a`."""
    width = GROUP_LENGTH * GROUPS_IN_LINE
    for start in range(0, len(text), width):
        line = text[start : start + width]
        groups = " ".join(line[place : place + GROUP_LENGTH] for place in range(0, len(line), GROUP_LENGTH))
        yield f"{groups:<{width + GROUPS_IN_LINE - 1}} | {_hash(line)[:LINE_CHECK_LENGTH]}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
