"""Ctrl-C, SIGTERM and SIGUSR1: training is asked to save and stop; an evaluation saves as it goes and just stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """A signal ends what can be left at any point; no handler of errors may swallow it."""


class Interruption:
    """Whether somebody asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._leave = False
        self._process = os.getpid()

    def __bool__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While the block runs, the first signal raises Stopped instead of waiting until it is looked at."""
        try:
            self._leave = True
            if self:
                raise Stopped
            yield
        finally:
            self._leave = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; a second Ctrl-C is for somebody who will not wait.

        A terminal and Slurm tell a whole group: forked workers that read images go on until they are let go.
        """
        if os.getpid() != self._process:
            return
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
        if self._leave:
            self._leave = False  # once: what follows is the saving
            raise Stopped


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Catch the signals while the block runs. A second Ctrl-C raises KeyboardInterrupt at once."""
    asked = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked.ask) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGUSR1 raise KeyboardInterrupt while the block runs, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
