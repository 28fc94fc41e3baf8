"""Every error a user can meet, with the exit code it ends in.

One line says what is wrong, where, and what to do next:

    DeatbenchError            1  the run failed
    ├── ConfigError           2  usage or configuration (also: a folder in use)
    │   └── UnknownNameError  2  a name nobody registered, with its nearest match
    ├── MismatchError         3  a number, hash or verdict does not hold on re-checking
    ├── MissingError          4  data or model not found
    ├── CheckpointError       4  a weight file that is damaged, hostile or of another model
    ├── DivergedError         1  a training that goes wrong each time
    └── InterruptedRun      130  stopped by Ctrl-C or a signal; the checkpoint is saved
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DeatbenchError(Exception):
    """Base of all errors with a message meant for users.

    Args:
        message: what is wrong and where, in one line.
        hint: the next command or the nearest match; printed behind the message.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(DeatbenchError):
    """A flag, recipe or value that cannot be meant."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name that is in no registry."""

    def __init__(self, kind: str, name: str, known: Iterable[str], listing: str = "") -> None:
        near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}", f"{guess}{listing}".strip())


class MismatchError(DeatbenchError):
    """A re-checked number, hash or verdict differs from the one on record."""

    exit_code = 3


class MissingError(DeatbenchError):
    """Data or a model that is not there and cannot be fetched."""

    exit_code = 4


class CheckpointError(DeatbenchError):
    """A weight file that is truncated, hostile, or belongs to another model."""

    exit_code = 4


class DivergedError(DeatbenchError):
    """A training that has come to nothing, and will again: nothing but its configuration is to blame."""


class InterruptedRun(DeatbenchError):
    """Ctrl-C, SIGTERM or SIGUSR1; everything up to the last step is saved."""

    exit_code = 130
