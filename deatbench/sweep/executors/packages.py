"""What some executors need beside deatbench itself, imported when one of them is chosen."""

from __future__ import annotations

import importlib
from typing import Any

from deatbench.errors import MissingError


def required(package: str, extra: str) -> Any:
    """The package, imported now. Raises MissingError with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingError(
            f"--executor {extra} cannot import {package}: {error}", f"pip install 'deatbench[{extra}]'"
        ) from error
