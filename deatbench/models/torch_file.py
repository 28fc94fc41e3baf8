"""Reading `.pt` files from strangers: tensors only, never code, and no more memory than the file is long.

torch.load runs with `weights_only=True` and nothing else is ever tried. Before it, the zip archive is looked at:
compressed members can unpack to a thousand times their size, and TorchScript archives are programs.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deatbench.errors import CheckpointError, MissingError
from deatbench.models.loaded import first_line

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "ema", "last")
_GLOBAL = re.compile(r"GLOBAL (\S+)")
_AGAIN = "fetch it again"
_INSTEAD = "save its state_dict() instead"


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The state_dict in a `.pt` file. Raises MissingError, or CheckpointError in one line naming file and fault."""
    try:
        whole = path.stat().st_size
        is_zip = zipfile.is_zipfile(path)
    except OSError as error:
        raise MissingError(f"cannot read {path}: {error.strerror}") from error
    if is_zip:
        _inspect_archive(path, whole)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise whatever their bytes happen to mean
        raise _refusal(path, error) from error
    return _state_dict(content, path)


def _inspect_archive(path: Path, whole: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}", _AGAIN) from error
    names = [member.filename.partition("/")[2] for member in members]
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise CheckpointError(f"{path} is a TorchScript program: refused", _INSTEAD)
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(f"{path} holds compressed members ({packed[0]}): refused, torch writes none")
    if sum(member.file_size for member in members) > whole:
        raise CheckpointError(f"{path} claims to hold more than its {whole} bytes: refused")


def _refusal(path: Path, error: Exception) -> CheckpointError:
    """One line out of torch's page of advice, some of which is to switch the protection off."""
    found = _GLOBAL.search(str(error))
    if found is None and "weights_only" in str(error):
        return CheckpointError(f"{path} cannot be read without running code that it may hold: refused", _INSTEAD)
    if found:
        what = found.group(1).rstrip(".,")
        return CheckpointError(f"{path} holds code or objects ({what}), not only tensors: refused", _INSTEAD)
    why = f"{type(error).__name__}: {first_line(error)[:200]}"
    return CheckpointError(f"{path} is damaged, or no file of torch's ({why})", _AGAIN)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors in what was loaded, out of up to three usual wrappers."""
    for _ in range(3):
        if not isinstance(content, Mapping) or (content and all(isinstance(v, Tensor) for v in content.values())):
            break
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state_dict but a {type(content).__name__}", _INSTEAD)
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise CheckpointError(f"{path} holds no state_dict: {name!r} is a {kind}", _INSTEAD)
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {name} is no plain tensor", "save dense, unquantised weights")
    return dict(content)
