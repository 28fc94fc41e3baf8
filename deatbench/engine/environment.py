"""The machine and the versions behind a number, without host names and paths."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from deatbench.errors import ConfigError
from deatbench.records import Env

PACKAGES = ("deatbench", "torchvision", "timm", "pyautoattack", "robustbench", "numpy", "safetensors")


def choose_device(name: str) -> torch.device:
    """The device called "auto", "cpu", "cuda" or "cuda:1". Raises ConfigError if it is not there."""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return _cuda_of_its_own(os.environ.get("LOCAL_RANK"), torch.cuda.device_count())
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}", "auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device here", "use --device cpu, or see `deatbench doctor`")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"no device {name}: there are {torch.cuda.device_count()}", "see `deatbench doctor`")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported", "auto, cpu, cuda or cuda:N")
    return device


def _cuda_of_its_own(local_rank: str | None, count: int) -> torch.device:
    """The GPU of torchrun's process `local_rank` on its machine; the only one where a cluster shows it no other."""
    if local_rank is None:
        return torch.device("cuda")
    if count > 1 and int(local_rank) >= count:
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU: there are {count}", "lower --nproc-per-node"
        )
    return torch.device("cuda", int(local_rank) if count > 1 else 0)


def hardware_name(device: torch.device, processes: int = 1) -> str:
    """The processor in words: "2 × NVIDIA H100 80GB HBM3", or the CPU's name with each process's number of threads."""
    if processes > 1:
        return f"{processes} × {hardware_name(device)}"
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}"


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself: twice as fast as float32; elsewhere bfloat16 is slower."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})


def environment(device: torch.device, processes: int = 1) -> Env:
    """Versions, device and revision, as they go into records."""
    return Env(
        python=platform.python_version(),
        torch=torch.__version__,
        device=str(device),
        hardware=hardware_name(device, processes),
        threads=torch.get_num_threads(),
        git=_revision(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Commit of the checkout that this package runs from, "+dirty" if changed; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + (
            "+dirty" if _git(root, "status", "--porcelain", "--untracked-files=no", "--", "deatbench") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
