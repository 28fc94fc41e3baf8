"""`deatbench doctor`: versions, devices, data, disk; known breakages and their fix."""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import rich_click as click

from deatbench.cli import options

# Package → oldest version that works; None in an optional row means any. Reasons stand in the fix.
REQUIRED = {
    "torch": ("2.11", "pip install -U torch: older versions lack what weights_only loading and fused attacks rely on"),
    "torchvision": ("0.26", "pip install -U torchvision: it must be the release that belongs to the installed torch"),
    "timm": ("1.0.9", "pip install -U timm"),
    "pyautoattack": ("0.2.0", "pip install -U pyautoattack: the published AutoAttack"),
    "numpy": ("1.26", "pip install -U numpy"),
    "scikit-learn": ("1.4", "pip install -U scikit-learn: it carries the embedded digits"),
    "safetensors": ("0.4.3", "pip install -U safetensors"),
    "matplotlib": ("3.8", "pip install -U matplotlib: it draws the training curves"),
}
OPTIONAL = {
    "robustbench": 'pip install "deatbench[robustbench]" for robustbench:… models',
    "pyarrow": 'pip install "deatbench[hf]" for data sets in parquet files',
    "tensorboard": 'pip install "deatbench[tensorboard]" for --track tensorboard',
}
LOW_DISK_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report: state is ok, note (works, worth knowing) or broken."""

    topic: str
    state: str
    value: str
    fix: str = ""


@click.command()
@options.data_dir
@options.home
@options.as_json
@click.pass_context
def doctor(ctx: click.Context, data_dir: Path | None, home: Path, as_json: bool) -> None:
    """Check versions, devices, data and disk of this machine.

    What is broken comes with its fix, and makes the exit code 1.

    \b
    Examples:
      deatbench doctor
      deatbench doctor --data-dir ~/data --json
    """
    from deatbench.cli.machine import data_on_stdout
    from deatbench.cli.tables import print_table

    with data_on_stdout():
        findings = [*_packages(), *_robustbench(), *_devices(), *_data(data_dir), *_disk(home.expanduser())]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
    else:
        print_table(["", "what", "found", "fix"], [[f.state, f.topic, f.value, f.fix] for f in findings])
    ctx.exit(1 if any(finding.state == "broken" for finding in findings) else 0)


def _packages() -> Iterator[Finding]:
    yield Finding("python", "ok", platform.python_version())
    for package, (oldest, fix) in REQUIRED.items():
        installed = _version(package)
        if installed is None:
            yield Finding(package, "broken", "missing", fix)
        elif _numbers(installed) < _numbers(oldest):
            yield Finding(package, "broken", f"{installed}, needs {oldest}", fix)
        else:
            yield _importable(package, installed, fix)
    for package, fix in OPTIONAL.items():
        installed = _version(package)
        yield Finding(package, "ok", installed) if installed else Finding(package, "note", "not installed", fix)


def _importable(package: str, installed: str, fix: str) -> Finding:
    """The right version can still fail to import, as torchvision does beside a torch of another release."""
    try:
        __import__({"scikit-learn": "sklearn"}.get(package, package))
    except Exception as error:
        return Finding(package, "broken", f"{installed} cannot be imported: {error}".splitlines()[0], fix)
    return Finding(package, "ok", installed)


def _robustbench() -> Iterator[Finding]:
    if _version("robustbench") is None:
        return
    if find_spec("pkg_resources") is None:
        fix = 'pip install "setuptools<82"'
        yield Finding("robustbench import", "broken", "needs pkg_resources, which setuptools 82 dropped", fix)
    elif find_spec("autoattack") is None:
        yield Finding(
            "robustbench import", "note", "wants `autoattack`, on PyPI only as pyautoattack: deatbench aliases it"
        )


def _devices() -> Iterator[Finding]:
    if find_spec("torch") is None:
        return
    import torch

    from deatbench.engine.environment import hardware_name, native_bfloat16

    yield Finding("cpu", "ok", hardware_name(torch.device("cpu")))
    if native_bfloat16():
        fix = "--set precision=bf16 trains large networks in about half the time; eval --precision bf16 searches so"
        yield Finding("cpu bfloat16", "note", "computed by the processor itself", fix)
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield Finding(f"cuda:{index}", "ok", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB")
    if torch.cuda.device_count() == 0:
        fix = "with an NVIDIA GPU here: install its driver and a CUDA build of torch" if not torch.version.cuda else (
            "with an NVIDIA GPU here: check its driver with nvidia-smi"
        )  # fmt: skip
        yield Finding("cuda", "note", "none: everything runs on the CPU", fix)


def _data(data_dir: Path | None) -> Iterator[Finding]:
    from deatbench.data import DATASETS, found
    from deatbench.errors import ConfigError

    for name in DATASETS.names():
        if name.startswith("folder"):
            continue
        try:
            place = found(name, data_dir)
        except ConfigError as error:
            yield Finding("data", "broken", error.message, error.hint or "")
            return
        fix = "" if place else f"deatbench data get {name}, or --data-dir / DEATBENCH_DATA"
        yield Finding(f"data {name}", "ok" if place else "note", place or "not on this machine", fix)


def _disk(home: Path) -> Iterator[Finding]:
    from deatbench.cli.machine import unwritable

    if why := unwritable(home):
        yield Finding("home", "broken", f"{home} cannot be written: {why}", "choose another --home")
    folder = next(parent for parent in (home.resolve(), *home.resolve().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    low = free < LOW_DISK_BYTES
    fix = "make room: checkpoints of large models need gigabytes" if low else ""
    yield Finding("free disk", "note" if low else "ok", f"{free / 2**30:.1f} GiB in {home}", fix)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("+")[0])[:3])
