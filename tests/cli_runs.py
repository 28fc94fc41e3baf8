"""Running the command line in tests: in this process where that will do, since importing torch takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from deatbench.cli.main import main

ROOT = Path(__file__).resolve().parents[1]

# A whole run in about two seconds.
TINY = (
    *("--arch", "resnet8", "--method", "pgd-at", "--dataset", "digits", "--epochs", "1", "--threads", "1"),
    *("--set", "arch.width=0.25", "--set", "attack.steps=2", "--set", "batch_size=128"),
    *("--set", "evaluation.attacks=[pgd-2]", "--set", "evaluation.last_attacks=[fgsm]", "--set", "evaluation.n=60"),
)


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Done:
    """`deatbench ARGUMENTS` in this process."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    return Done(code, *capsys.readouterr())


def environment(**changes: str) -> dict[str, str]:
    """This process's environment for a child that imports this checkout on one thread."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **changes}


def spawn(arguments: Sequence[str | Path], cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """`python -m deatbench ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-m", "deatbench", *(str(argument) for argument in arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120, check=False, **options
    )  # type: ignore[call-overload,no-any-return]


def files(folder: Path) -> set[Path]:
    """Every file below a folder, locks aside."""
    return {path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
