"""Texts that a stranger might put into a record, and records in which every free text is one of them."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from deatbench.errors import ConfigError
from deatbench.records import Record

R = TypeVar("R", bound=Record)

HOSTILE = (
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=1</script>",
    '"><img src=x onerror=window.pwned=1>',
    "'><svg/onload=window.pwned=1>",
    "</script></style></title></textarea><svg onload=window.pwned=1>",
    "' autofocus onfocus='window.pwned=1",
    '" onmouseover="window.pwned=1" x="',
    "<iframe src=javascript:window.pwned=1>",
    "<a href=javascript:window.pwned=1>click</a>",
    "javascript:window.pwned=1",
    "data:text/html,<script>window.pwned=1</script>",
    "//evil.example/x.js",
    "https://evil.example/x www.evil.example me@evil.example",
    "<base href=https://evil.example/><meta http-equiv=refresh content=0;url=https://evil.example>",
    "<!--<script>window.pwned=1//-->",
    "--> <!-- --> ]]>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.pwned=1>",
    "<details open ontoggle=window.pwned=1>",
    "<object data=x><embed src=x><link rel=stylesheet href=//evil.example>",
    "{{ 7*7 }}{% raw %}{# x #}",
    "${7*7}`${window.pwned=1}`",
    "\\u003cscript\\u003ewindow.pwned=1\\u003c/script\\u003e",
    "&lt;script&gt; &amp; &#60;img src=x onerror=window.pwned=1&#62;",
    "a|b `c` *d* _e_ [f](https://evil.example) ![g](x) <b>h</b> ~~i~~ [j]: x",
    "| - | - |\n|---|---|\n# heading\n- item\n> quote",
    "``` ~~~ $x$ $$y$$ :smile: \\ \\\\ @everyone #1",
    "\\input{/etc/passwd} $\\immediate\\write18{x}$ %~^_{}& \\end{tabular}",
    "=cmd|' /C calc'!A0",
    '+HYPERLINK("https://evil.example","x")',
    '-2+3+cmd|" /C calc"!A0',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1\r\n=2+2",
    "\u202egnp.exe\x00\x1b[31m\u2028\u2029\ufeff",
    "\u202e",
    "x\x01y",
    "__proto__ constructor toString",
    "x" * 5000,
)
PLAIN = "harmless"


def filled(record: R, text: str, *, keep: tuple[str, ...] = ()) -> R:
    """The record with `text` in every field that takes any text, but for the paths in `keep` (`model.name`)."""
    data = record.model_dump(mode="json")
    for holder, key, path in _texts(data, ""):
        if path in keep:
            continue
        before, holder[key] = holder[key], text
        try:
            type(record).model_validate(data)
        except (ValidationError, ConfigError):
            holder[key] = before
    return type(record).model_validate(data)


def _texts(value: Any, path: str) -> list[tuple[Any, Any, str]]:
    """Every text inside: what holds it, under which key, and the path of keys to it."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    found = []
    for key, inside in pairs:
        here = f"{path}.{key}" if path else str(key)
        if isinstance(inside, str):
            found.append((value, key, here))
        elif isinstance(inside, (dict, list)):
            found += _texts(inside, here)
    return found
