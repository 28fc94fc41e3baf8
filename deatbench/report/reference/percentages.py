"""Accuracies as others write them, in percent as text, and as we keep them, as shares."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]{1,20})?")


def share_of(percent: Any) -> float | None:
    """`"52.48"` as 0.5248; a number counts as its text. None for `""`, `"null"` and None: nothing was given.

    Raises ValueError for anything else that is not a percentage between 0 and 100.
    """
    if isinstance(percent, int | float) and not isinstance(percent, bool):
        percent = str(percent)
    if percent is None or percent in ("", "null"):
        return None
    if not isinstance(percent, str) or not _NUMBER.fullmatch(percent.strip()) or Decimal(percent.strip()) > 100:
        raise ValueError(f"{percent!r} is no percentage")
    return float(Decimal(percent.strip()) / 100)


def percent_of(share: float) -> str:
    """0.5248 as `"52.48"`: two decimals, which is one image in 10,000."""
    return f"{100 * share:.2f}"
