"""Where a MODEL argument comes from: a file per kind of source.

    run folder or run id      runs.py          ./net.safetensors, ./net.pt      weight_file.py
    zoo:ID                    zoo.py           pkg.module:f, ./file.py:f        factory.py
    robustbench:Key@D/norm    robustbench_zoo.py    timm:NAME                   timm_pretrained.py

Every source answers two questions: `reading(request)` says in words how it would read the argument (None: not its
kind), `load(request)` loads it. An argument that two sources can read is refused (resolve.py).
"""

from deatbench.models.loaded import LoadedModel
from deatbench.models.request import ModelRequest
from deatbench.models.resolve import load_model

__all__ = ["LoadedModel", "ModelRequest", "load_model"]
