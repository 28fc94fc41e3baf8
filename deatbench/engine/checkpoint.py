"""Resume states and weight files.

A resume state is one file whose name carries its step and the start of its SHA-256, so that a truncated or damaged
one is recognised before it is read; the last two are kept. Loading never executes code (`weights_only=True`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from deatbench.engine.monitor import Monitor
from deatbench.records import METADATA_KEY, ModelSpec
from deatbench.store import RunFolder, atomic_write_bytes

KEEP = 2


def save_state(folder: RunFolder, step: int, state: dict[str, Any]) -> Path:
    """Write a resume state atomically, then drop all but it and the one before.

    States of the same and of later steps go too: they are damaged, or of a past that was taken back.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    start = f"checkpoint-{step:08d}-"
    path = folder.path / f"{start}{hashlib.sha256(data).hexdigest()[:16]}.pt"
    atomic_write_bytes(path, data)
    before = [old for old in folder.checkpoints() if old.name < start]
    for other in set(folder.checkpoints()) - {path, *before[1 - KEEP :]}:
        with contextlib.suppress(OSError):
            other.unlink()
    return path


def load_state(folder: RunFolder, device: torch.device, monitor: Monitor) -> dict[str, Any] | None:
    """The newest resume state that is whole; damaged ones are passed over with a note. None if there is none."""
    for path in reversed(folder.checkpoints()):
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:16] != path.stem.rpartition("-")[2]:
                raise ValueError("its checksum does not match")
            state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
            if not isinstance(state, dict):
                raise ValueError("it holds no training state")
        except (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            monitor.note(f"passing over damaged {path.name}: {reason}")
            continue
        return state
    return None


def save_weights(path: Path, model: nn.Module, spec: ModelSpec) -> str:
    """Write weights as safetensors that carry their ModelSpec; returns the file's SHA-256."""
    data = weights_file(model, spec)
    atomic_write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def weights_file(model: nn.Module, spec: ModelSpec) -> bytes:
    """The bytes of a safetensors file that carries its ModelSpec."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(tensors, metadata={METADATA_KEY: spec.model_dump_json()})


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 of the state_dict: names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    state: dict[str, Tensor] = model.state_dict()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
