"""One command in several processes (torchrun): the first of them speaks, and what goes wrong for all is said once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from deatbench.errors import DeatbenchError

if TYPE_CHECKING:
    from deatbench.engine.distributed import Processes
    from deatbench.pipeline import Machine


@contextmanager
def together(machine: Machine) -> Iterator[Processes]:
    """The processes that torchrun started, else this one alone; inside, all but the first are mute."""
    from deatbench.engine.distributed import processes

    with processes(machine.device) as team:
        try:
            with ExitStack() as silence:
                if team.rank > 0:
                    nowhere = silence.enter_context(Path(os.devnull).open("w"))
                    silence.enter_context(redirect_stdout(nowhere))
                    silence.enter_context(redirect_stderr(nowhere))
                yield team
        except DeatbenchError as error:
            if team.once(str(error)):
                raise
            raise SystemExit(error.exit_code) from error
