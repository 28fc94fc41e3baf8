"""Who may import whom: the arrows of docs/design.md, read out of the source. No step calls upward."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "deatbench"
BASE = {"errors", "registry", "records"}  # value types and messages: for everybody
ENGINE = {"config", "store", "evidence", "threats", "data", "archs", "attacks", "optim", "methods", "trackers"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "registry": {"errors"},
    "records": {"errors"},
    "config": {"errors", "records"},
    "store": {"errors", "records"},
    "evidence": {"errors", "records", "store"},
    "threats": BASE,
    "data": BASE,
    "archs": BASE,
    "optim": {"errors", "registry"},
    "attacks": BASE | {"threats"},
    "certificates": {"errors", "archs", "threats"},
    "trackers": BASE,
    "methods": BASE | {"attacks", "threats", "optim"},
    "engine": BASE | ENGINE | {"certificates"},
    "soundness": BASE | {"attacks", "threats", "data"},
    "models": BASE | {"archs", "store", "threats", "config"},
    "report": {"errors", "records", "store"},
    "pipeline": BASE | ENGINE | {"certificates", "engine", "soundness", "models"},
    "sweep": BASE | {"config", "store", "engine", "pipeline"},
    "cli": BASE | ENGINE | {"engine", "soundness", "models", "report", "pipeline", "sweep"},
    "__main__": {"cli"},
}
NO_TORCH = ("errors", "registry", "records", "config", "store", "evidence", "report", "sweep", "trackers")


def modules() -> dict[str, Path]:
    """Dotted names below the package ("attacks.pgd") and their files."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


def imports(path: Path) -> set[str]:
    """Absolute names of all that a file imports, wherever in it: at the top, inside functions, for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the room"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(name: str) -> str:
    return name.split(".")[0]


def arrows(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    inside = {name.removeprefix("deatbench.") for name in imports(path) if name.startswith("deatbench.")}
    return {room_of(name) for name in inside} - {"__version__"}


def forbidden(module: str, path: Path) -> set[str]:
    room = room_of(module)
    return arrows(path) - MAY_IMPORT[room] - {room}


@pytest.mark.parametrize("module", modules())
def test_no_arrow_against_the_table(module: str) -> None:
    assert room_of(module) in MAY_IMPORT, f"{room_of(module)} is not in the table of rooms: give it its place"
    assert not forbidden(module, modules()[module])


def test_the_table_knows_only_rooms_that_exist() -> None:
    assert MAY_IMPORT.keys() == {room_of(module) for module in modules()}


def test_the_table_has_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {room for room, below in MAY_IMPORT.items() if room not in done and below <= done}
        assert ready, f"a circle among {MAY_IMPORT.keys() - done}"
        done |= ready


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("attacks.new", "from deatbench.engine.evaluate import evaluate\n"),
        ("report.new", "def f():\n    import deatbench.pipeline\n"),
        ("records", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from deatbench import store\n"),
    ],
)
def test_an_arrow_upward_is_seen(module: str, source: str, tmp_path: Path) -> None:
    path = tmp_path / "new.py"
    path.write_text(source)
    assert forbidden(module, path)


@pytest.mark.parametrize("room", NO_TORCH)
def test_rooms_that_work_without_torch(room: str) -> None:
    """In a fresh interpreter that has no torch, every module of the room can be imported."""
    names = [f"deatbench.{module}" for module in modules() if room_of(module) == room]
    program = (
        "import importlib, sys\n"
        "sys.modules['torch'] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert not [name for name in sys.modules if name.startswith(('torch.', 'torchvision', 'timm'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_line_opens_without_torch() -> None:
    program = "import deatbench.cli.main, sys; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
