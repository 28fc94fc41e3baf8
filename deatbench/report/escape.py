"""Text from records made harmless: one printable line anywhere, and free of markup in GitHub's Markdown."""

from __future__ import annotations

import re
import unicodedata

_UNPRINTED = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
# An underscore inside a word and a lone colon mean nothing; `:smile:` and `http://` do.
_MEANT = re.compile(
    r"[\\`*{}\[\]<>#|~!$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//|[\w+-]+:)|(?<=www)\.", re.IGNORECASE
)
_ENTITIES = {"<": "&lt;", ">": "&gt;", "|": "&#124;"}


def plain(text: str, limit: int = 300) -> str:
    """Text from a record as one line of at most `limit` characters, "?" if nothing is left of it.

    Control, direction-changing and unpaired characters go: they could break a line or disguise a name.
    """
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(c) in _UNPRINTED else c for c in text)
    line = " ".join(text.split())
    return (line if len(line) <= limit else line[: limit - 1] + "…") or "?"


def markdown(value: str, limit: int = 300) -> str:
    """One line in which nothing is markup: no tag, table border, emphasis, link, mention or bare address.

    It is meant for the inside of a line, where list and heading marks have no force. Addresses of mail are found
    by renderers after backslashes are gone, so a comment splits them.
    """
    line = plain(value, limit).replace("&", "&amp;")
    line = _MEANT.sub(lambda found: _ENTITIES.get(found[0], "\\" + found[0]), line)
    return line.replace("@", "@<!-- -->")


def code(value: str) -> str:
    """One line as a code span that can stand in a table cell."""
    line = plain(value, limit=2000).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
