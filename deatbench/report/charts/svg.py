"""Writing SVG: elements whose every text and attribute is escaped, ids from a key, widths of text."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable

from markupsafe import Markup, escape

from deatbench.report.escape import plain

WIDE = 640
NARROW = 340
SIZE = 12.0  # of text, px

_RELATIVE_OR_WEB = re.compile(r"https?://[^\s\\]+|(?!//)[^\s\\:?#]+(?:[?#][^\s\\]*)?|[?#][^\s\\]*", re.IGNORECASE)
_NARROW_LETTERS = frozenset("iljtfrI.,:;'|!()[]{} /-·")
_WIDE_LETTERS = frozenset("mwMWQOG@%&—→≥≤")


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """`<name …>…</name>`. Attributes that are None go; `class_` is class, `aria_label` is aria-label.

    Children that are no Markup become one line of escaped text; numbers are rounded to a tenth.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(child if isinstance(child, Markup) else escape(plain(child)) for child in children)
    return Markup(f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>")


def _value(value: str | float) -> str:
    if not isinstance(value, str):
        return number(value)
    return escape(value if value.isprintable() else plain(value, len(value)))


def number(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def group(parts: Iterable[Markup], **attributes: str | float | None) -> Markup:
    """The parts in one `<g>`, nothing if there are none."""
    inner = joined(parts)
    return element("g", inner, **attributes) if inner else inner


def joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def text(x: float, y: float, words: str, class_: str | None = None, **attributes: str | float | None) -> Markup:
    """One line of text that begins, or by class ends or is centred, at (x, y)."""
    return element("text", words, x=x, y=y, class_=class_, **attributes) if words else Markup("")


def link(address: str | None) -> str | None:
    """The address if it is relative or http(s), otherwise None: no other scheme, no `//host`, nothing unprintable."""
    if address and address.isprintable() and _RELATIVE_OR_WEB.fullmatch(address):
        return address
    return None


def identifier(key: str) -> str:
    """A key as an id: ASCII letters, digits, `.`, `_` and `-` stay, all else becomes its number."""
    return re.sub(r"[^A-Za-z0-9._-]", lambda found: f"_{ord(found[0]):x}", key)


def figure(
    *parts: Markup, key: str, title: str, description: str, width: int, height: float, linked: bool = False
) -> Markup:
    """The `<svg>` around a drawing. An image to assistive software, or a group where links inside have to be found."""
    height = math.ceil(height)
    name, words = f"{identifier(key)}-title", f"{identifier(key)}-desc"
    return element(
        "svg",
        element("title", title, id=name),
        element("desc", Markup(escape(plain(description, 2000))), id=words),
        *parts,
        class_="chart",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="group" if linked else "img",
        aria_labelledby=f"{name} {words}",
    )


def fitted(draw: Callable[[str, int], Markup], key: str) -> Markup:
    """A figure drawn twice, for a wide column and for a phone; CHART_CSS shows the one that fits its container.

    `draw(key, width)` is called with two keys, so that ids stay unique.
    """
    wide, narrow = draw(key, WIDE), draw(f"{key}-narrow", NARROW)
    return Markup('<div class="fitted"><div class="wide">{}</div><div class="narrow">{}</div></div>').format(
        wide, narrow
    )


def extent(words: str, size: float = SIZE) -> float:
    """About how many pixels a line of text takes: a little more than most fonts need."""
    return size * sum(_letter(letter) for letter in words)


def _letter(letter: str) -> float:
    if letter in _NARROW_LETTERS:
        return 0.36
    if letter in _WIDE_LETTERS:
        return 0.92
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.05
    return 0.7 if letter.isupper() else 0.6


def shortened(words: str, room: float) -> str:
    """The text in one line, cut with … to fit into `room` pixels."""
    words = plain(words)
    if extent(words) <= room + 1e-6:  # room is often the text's own extent, come back through sums
        return words
    while words and extent(words) + SIZE > room:
        words = words[:-1]
    return words.rstrip() + "…"
