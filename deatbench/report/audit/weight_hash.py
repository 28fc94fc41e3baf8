"""Which network a weight file holds, without torch: the hash by which evaluations name it, from the file's bytes.

An evaluation names its network by the SHA-256 of the state_dict: name, type, shape and bytes of each tensor, in the
order of the names. A safetensors file holds just that: 8 bytes of length, a JSON header, the tensors' bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any

from deatbench.errors import CheckpointError, ConfigError
from deatbench.store import parse_json

TORCH_NAMES = {
    "F64": "torch.float64",
    "F32": "torch.float32",
    "F16": "torch.float16",
    "BF16": "torch.bfloat16",
    "I64": "torch.int64",
    "I32": "torch.int32",
    "I16": "torch.int16",
    "I8": "torch.int8",
    "U8": "torch.uint8",
    "BOOL": "torch.bool",
}
MAX_HEADER_BYTES = 16 * 2**20


def state_sha256(data: bytes, where: str) -> str:
    """SHA-256 of the state_dict in a safetensors file's bytes. Raises CheckpointError if they are not one."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise CheckpointError(f"{where} is not a whole safetensors file")
    try:
        header = parse_json(data[8 : 8 + length].decode("utf-8"), f"the header of {where}")
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        return _digest(tensors, memoryview(data)[8 + length :])
    except ConfigError as error:
        raise CheckpointError(error.message) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: its header does not describe tensors: {error}") from error


def _digest(tensors: dict[str, Any], content: memoryview) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        start, end = tensors[name]["data_offsets"]
        if not 0 <= start <= end <= len(content):
            raise ValueError(f"{name} lies outside the file")
        shape = tuple(int(size) for size in tensors[name]["shape"])
        digest.update(f"{name}|{TORCH_NAMES[tensors[name]['dtype']]}|{shape}|".encode())
        digest.update(content[start:end])
    return digest.hexdigest()
