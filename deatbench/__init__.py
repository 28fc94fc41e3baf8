"""deatbench: train, attack and rank image classifiers; every number can be re-checked.

from deatbench import load_model
model = load_model("zoo:ID")      # [0, 1] images in, logits out
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from deatbench.records import Checkpoint, ModelSpec

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def load_model(
    name: str | Path,
    *,
    home: str | Path = ".",
    device: str | torch.device = "cpu",
    checkpoint: Checkpoint = "best",
    spec: ModelSpec | None = None,
) -> torch.nn.Module:
    """The network that `deatbench eval NAME` attacks, in eval mode: float32 [N, C, H, W] in [0, 1] → logits [N, K].

    Weights of the zoo and of runs are checked against the SHA-256 in their card or record before they are used, and no
    weight file ever runs code. A factory is code.

    Args:
        name: "zoo:ID", a run or its folder, a .safetensors or .pt file, "pkg.module:factory", "./file.py:factory",
            "robustbench:Key@cifar10/Linf", "timm:NAME".
        home: the working folder with model_zoo/ and runs/ in it.
        device: "auto", "cpu", "cuda" or "cuda:1".
        checkpoint: which weights of a run: "best", "last", "ema" or "swa". The zoo keeps one set, whatever its name.
        spec: the architecture of a weight file that does not say it itself.

    Raises:
        MissingError: there is no such model, or its weights are not kept here.
        CheckpointError: weights that are damaged, hostile, of another model, or not those of the card.
        ConfigError: `name` can be read in two ways, or names nothing that can be loaded.
    """
    from pathlib import Path  # torch comes with the first model, not with the import of this package

    from deatbench.engine.environment import choose_device
    from deatbench.models import ModelRequest
    from deatbench.models import load_model as load
    from deatbench.store import Home

    return load(
        ModelRequest(str(name), Home(Path(home).expanduser()), choose_device(str(device)), checkpoint, spec)
    ).module
