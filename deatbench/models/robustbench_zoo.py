"""`robustbench:Key@cifar10/Linf`: a network of RobustBench's model zoo, its weights from a file on disk.

Croce et al. 2021, "RobustBench: a standardized adversarial robustness benchmark" (arXiv 2010.09670). Only their
constructors are used, and no download: weights lie at ROOT/<dataset>/<norm>/<Key>.pt, where ROOT is the environment
variable DEATBENCH_ROBUSTBENCH or the folder robustbench/ of the working folder; `robustbench` itself puts them so.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deatbench.errors import ConfigError, MissingError, UnknownNameError
from deatbench.models.loaded import LoadedModel, first_line, identifier
from deatbench.models.request import ModelRequest
from deatbench.models.torch_file import read_torch_file
from deatbench.models.weight_file import fitted
from deatbench.models.weights import fill
from deatbench.records import Threat, parse_eps

PREFIX = "robustbench:"
INSTALL = 'pip install "deatbench[robustbench]"'
# The radii of RobustBench's own boards.
EPS = {
    ("cifar10", "Linf"): "8/255",
    ("cifar10", "L2"): "0.5",
    ("cifar100", "Linf"): "8/255",
    ("imagenet", "Linf"): "4/255",
}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
# Normalisation constants that older files lack and the constructors set; and parts that no forward pass uses.
CONSTANTS = ("mu", "sigma", "mean", "std")
UNUSED = re.compile(r"(^|\.)(model_preact_hl1\..*|scores)$")


def reading(request: ModelRequest) -> str | None:
    """Whatever begins with `robustbench:`."""
    return request.text if request.text.startswith(PREFIX) else None


def load(request: ModelRequest) -> LoadedModel:
    """Raises ConfigError, UnknownNameError, or MissingError that says what to install or to download where."""
    key, dataset, norm = _parse(request.text)
    entry = _entry(key, dataset, norm)
    download = entry.get("gdrive_id")
    if isinstance(download, list):
        raise ConfigError(f"{key} is an ensemble of {len(download)} weight files, which is not supported")
    root = Path(os.environ.get("DEATBENCH_ROBUSTBENCH") or request.home.path / "robustbench").expanduser()
    path = root / dataset / norm / f"{key}.pt"
    if not path.is_file():
        raise MissingError(f"no weights at {path}", f"download them there: {_where_from(download)}")
    network = _construct(entry, key)
    tensors = {name: tensor for name, tensor in read_torch_file(path).items() if not UNUSED.search(name)}
    fill(network, _fitted(tensors, network), str(path))
    eps = EPS.get((dataset, norm))
    return LoadedModel(
        network,
        identifier(f"robustbench-{key}"),
        arch=type(network).__name__,
        source=request.text,
        dataset=dataset if dataset in ("cifar10", "cifar100") else None,
        threat=Threat(norm=norm, eps=parse_eps(eps), eps_text=eps) if eps and norm in ("Linf", "L2") else None,  # type: ignore[arg-type]
    )


def _parse(text: str) -> tuple[str, str, str]:
    """Key, data set and norm out of `robustbench:Key@cifar10/Linf`; the part behind @ may be left out."""
    key, _, place = text.removeprefix(PREFIX).partition("@")
    dataset, _, norm = (place or "cifar10/Linf").partition("/")
    if not re.fullmatch(r"[\w.+-]+", key) or dataset not in CLASSES or norm not in ("Linf", "L2", "corruptions"):
        raise ConfigError(
            f"MODEL {text!r} is not robustbench:Key@DATASET/NORM", "such as robustbench:Wong2020Fast@cifar10/Linf"
        )
    return key, dataset, norm


def _entry(key: str, dataset: str, norm: str) -> Mapping[str, Any]:
    boards = _model_dicts()
    models = boards.get(dataset, {}).get(norm, {})
    if key not in models:
        raise UnknownNameError(f"RobustBench model for {dataset}/{norm}", key, list(models), "see its leaderboard")
    entry: Mapping[str, Any] = models[key]
    return entry


def _model_dicts() -> dict[str, dict[str, Mapping[str, Any]]]:
    """Their registry, data set → norm → key → entry. It imports `autoattack`, which exists as pyautoattack only."""
    import pyautoattack

    sys.modules.setdefault("autoattack", pyautoattack)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from robustbench.model_zoo.models import model_dicts
    except ModuleNotFoundError as error:
        if error.name == "pkg_resources":
            raise MissingError(
                "robustbench needs pkg_resources, which setuptools 82 dropped", 'pip install "setuptools<82"'
            ) from error
        raise MissingError(f"robustbench models need the package {error.name}", INSTALL) from error
    except ImportError as error:
        raise MissingError(f"robustbench cannot be imported: {first_line(error)}", INSTALL) from error
    return {
        dataset.value: {norm.value: models for norm, models in boards.items()}
        for dataset, boards in model_dicts.items()
    }


def _construct(entry: Mapping[str, Any], key: str) -> nn.Module:
    """Their constructor, which may print; stdout is for data."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = entry["model"]()
    except Exception as error:  # a few want CUDA or the network
        raise MissingError(f"robustbench cannot build {key} here: {first_line(error)}") from error
    return network


def _fitted(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    expected = network.state_dict()
    constants = tuple(name for name in expected if name.rpartition(".")[2] in CONSTANTS)
    return fitted(tensors, expected, constants)


def _where_from(download: str | None) -> str:
    return f"https://drive.google.com/uc?id={download}" if download else "see its entry on robustbench.github.io"
