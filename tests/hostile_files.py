"""Files that a stranger might send: damaged, lying, or loaded with code. Used by tests only."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Payload:
    """Unpickled without care, it writes the file `proof`."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.proof)!r}, 'w').close()",)


def saved(content: Any, *, legacy: bool = False) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def rewritten(archive: bytes, *, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """A torch archive with some members (by the last part of their name) replaced, each packed anew."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for entry in old.infolist():
            last = entry.filename.rpartition("/")[2]
            new.writestr(entry.filename, members.get(last, old.read(entry)))
    return buffer.getvalue()


def code_runners(proof: Path) -> dict[str, bytes]:
    """`.pt` files that would write `proof` if they were unpickled in full."""
    payload = Payload(proof)
    whole = nn.Sequential(nn.Linear(2, 2))
    whole.hidden = payload  # type: ignore[assignment]
    return {
        "zip": saved({"w": payload}),
        "legacy": saved({"w": payload}, legacy=True),
        "bare pickle": pickle.dumps(payload),
        "old pickle": pickle.dumps({"state_dict": payload}, protocol=0),
        "whole module": saved(whole),
        "beside tensors": saved({"state_dict": {"w": torch.zeros(2)}, "extra": payload}),
    }


def zip_bomb(unpacked: int = 64 * 2**20) -> bytes:
    """A small `.pt` whose storage unpacks to `unpacked` bytes."""
    plain = saved({"w": torch.zeros(4)})
    return rewritten(plain, compression=zipfile.ZIP_DEFLATED, **{"0": bytes(unpacked)})


def lying_storage() -> bytes:
    """A `.pt` that claims 2**28 elements for a storage of 16 bytes."""
    plain = saved({"w": torch.zeros(4)})
    with zipfile.ZipFile(io.BytesIO(plain)) as archive:
        name = next(entry.filename for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
        instructions = archive.read(name)
    claim = b"J" + (2**28).to_bytes(4, "little")
    return rewritten(plain, **{"data.pkl": instructions.replace(b"K\x04", claim)})
