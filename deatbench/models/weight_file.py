"""A weight file: `.safetensors` of deatbench by itself; other `.safetensors`, `.pt` and `.pth` with `--arch`.

A foreign file holds a state_dict, perhaps wrapped in {"state_dict": …} or with `module.` before its keys; the
normalisation is the data set's unless the file brings its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
from torch import Tensor, nn

from deatbench.archs.build import build_arch
from deatbench.errors import CheckpointError, ConfigError, MissingError
from deatbench.models.loaded import LoadedModel, identifier
from deatbench.models.request import ModelRequest
from deatbench.models.runs import trained_model
from deatbench.models.torch_file import read_torch_file
from deatbench.models.weights import fill, load_weights, read_safetensors
from deatbench.records import METADATA_KEY, Checkpoint, ModelSpec, TrainingRecord
from deatbench.store import RunFolder, read_record, sha256_of

TORCH = (".pt", ".pth", ".ckpt", ".bin", ".tar")
SUFFIXES = (".safetensors", *TORCH)
PREFIXES = ("", "module.", "model.", "module.model.", "net.", "module.0.", "_orig_mod.", "module._orig_mod.")


def reading(request: ModelRequest) -> str | None:
    """A file at that path, or a name that ends like one."""
    if request.path.is_file() or (request.path.suffix in SUFFIXES and ":" not in request.text):
        return f"the file {request.path}"
    return None


def load(request: ModelRequest) -> LoadedModel:
    """Raises MissingError, ConfigError (`--arch` is needed) or CheckpointError, each naming the file."""
    path = request.path
    if not path.is_file():
        raise MissingError(f"no file {path}")
    if path.suffix == ".safetensors":
        made_by = _run_of(path)
        if made_by is not None:
            return trained_model(*made_by, request.device)
        if _is_ours(path):
            module, spec = load_weights(path, request.device)
            return _loaded(path, module, spec)
        tensors = read_safetensors(_read(path), str(path))[1]
    elif path.suffix in TORCH:
        tensors = read_torch_file(path)
    else:
        raise ConfigError(
            f"{path} is no weight file", f"known endings: {' '.join(SUFFIXES)}; a factory is FILE.py:NAME"
        )
    if request.spec is None:
        raise ConfigError(f"{path} does not say which architecture it holds", "add --arch NAME and --dataset NAME")
    return _loaded(path, network_of(request.spec, tensors, str(path)), request.spec)


def network_of(spec: ModelSpec, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """The architecture of `spec` with a foreign state_dict in it. Raises CheckpointError if they do not fit."""
    module = build_arch(**spec.model_dump(exclude={"arch", "params"}), name=spec.arch, **spec.params)
    fill(module, fitted(tensors, module.state_dict()), where)
    return module


def fitted(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """`tensors` under the names in `expected`, where a common prefix makes them agree; else as they are.

    Step counters of batch norm (older files lack them), the normalisation, and `optional` entries are taken from
    `expected` where the file does not bring them.
    """
    spare = {
        key: value
        for key, value in expected.items()
        if key.endswith("num_batches_tracked") or key.startswith("normalize.") or key in optional
    }
    for renamed in _renamings(tensors):
        if renamed.keys() <= expected.keys() and expected.keys() <= renamed.keys() | spare.keys():
            return {**spare, **renamed}
    return dict(tensors)


def _renamings(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors without, and with, each of the usual prefixes."""
    for old in PREFIXES:
        if all(key.startswith(old) for key in tensors):
            bare = {key.removeprefix(old): value for key, value in tensors.items()}
            for new in ("", "net.", "model."):
                yield {new + key: value for key, value in bare.items()}


def _run_of(path: Path) -> tuple[RunFolder, Checkpoint] | None:
    """The finished run whose recorded weights this file is, so that what is known about them stays known."""
    folder = RunFolder(path.parent)
    if not folder.finished:
        return None
    record, digest = read_record(folder.training, TrainingRecord), sha256_of(path)
    return next(((folder, name) for name, known in record.weights.items() if known == digest
                 and path.name == folder.weights(name).name), None)  # fmt: skip


def _is_ours(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, "pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MissingError(f"cannot read {path}: {error.strerror}") from error


def _loaded(path: Path, module: nn.Module, spec: ModelSpec) -> LoadedModel:
    return LoadedModel(module, identifier(path.stem), spec.arch, source=path.name, params=spec.params)
