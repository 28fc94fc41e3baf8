"""Our own weight files: safetensors that carry their ModelSpec in the metadata, so that one file is a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from deatbench.archs.build import build_arch
from deatbench.errors import CheckpointError, MissingError
from deatbench.records import METADATA_KEY, ModelSpec


def load_weights(path: Path, device: torch.device, *, expect_sha256: str | None = None) -> tuple[nn.Module, ModelSpec]:
    """The network in a `.safetensors` file written by deatbench, in eval mode on `device`.

    Raises MissingError if the file is not there, CheckpointError if it is damaged, is not what `expect_sha256` says,
    has no ModelSpec, or does not fit the architecture that it names.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingError(f"cannot read {path}: {error.strerror}") from error
    if expect_sha256 is not None and hashlib.sha256(data).hexdigest() != expect_sha256:
        raise CheckpointError(f"{path} is not the file on record: its SHA-256 differs", "train or fetch it again")
    spec, tensors = read_safetensors(data, str(path))
    if spec is None:
        raise CheckpointError(f"{path} does not say which architecture it holds", "use ./file.py:factory to load it")
    module = build_arch(**spec.model_dump(exclude={"arch", "params"}), name=spec.arch, **spec.params)
    fill(module, tensors, str(path))
    return module.to(device).eval(), spec


def read_safetensors(data: bytes, where: str) -> tuple[ModelSpec | None, dict[str, Tensor]]:
    """ModelSpec (None if the file carries none) and tensors. Raises CheckpointError if the bytes are damaged."""
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
        text = metadata.get(METADATA_KEY)
        return (ModelSpec.model_validate_json(text) if text else None), tensors
    except (SafetensorError, ValidationError, ValueError, AttributeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{where} is not a whole safetensors file: {first}", "train or fetch it again") from error


def fill(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load `tensors` into `module`. Raises CheckpointError on missing, foreign or misshapen keys, and on NaN."""
    expected = module.state_dict()
    missing, foreign = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or foreign:
        parts = [f"{len(missing)} keys are missing (first {missing[0]})"] if missing else []
        parts += [f"{len(foreign)} are foreign (first {foreign[0]})"] if foreign else []
        raise CheckpointError(f"{where} is of another model: {', '.join(parts)}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            raise CheckpointError(f"{where} is of another model: {name} has shape {shapes}", "check classes and width")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: {name} holds NaN or infinite values")
    module.load_state_dict(tensors)
