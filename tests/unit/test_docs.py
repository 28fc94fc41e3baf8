"""The examples of docs/adding-*.md run as they stand, and what they register works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"

USE = """
import torch
from deatbench.archs.build import build_arch
from deatbench.attacks import make_attack
from deatbench.attacks.rng import BatchRng, ExampleRng
from deatbench.data import load_dataset
from deatbench.methods.base import Inner
from deatbench.threats import make_threat

torch.set_num_threads(1)
torch.manual_seed(0)
data = load_dataset("stripes")
net = build_arch("mlp", num_classes=2, in_channels=1, image_size=8, mean=data.mean, std=data.std, width=0.1)
indices, threat = torch.arange(4), make_threat("Linf", "0.1")
((x, y),) = data.test.batches([indices], torch.device("cpu"))
x_adv = make_attack("logit-pgd-3")(net, x, y, threat, ExampleRng(0, indices, "test"))
assert 0 < float((x_adv - x).abs().max()) <= 0.1 + 1e-6
batch = Batch(x, y, BatchRng(torch.Generator().manual_seed(0)))
method = METHODS["clean-and-adv"](**METHODS.bind("clean-and-adv", {"share": 0.25}))
losses = method.step(net, batch, Inner(threat, 2, 0.25, True, "eval"))
assert losses.clean_logits_NK.shape == (4, 2)
assert any(float(weight.grad.abs().sum()) > 0 for weight in net.parameters())
"""


def test_examples_run() -> None:
    pages = sorted(DOCS.glob("adding-*.md"))
    code = re.compile(r"```python\n(.*?)```", re.DOTALL)
    blocks = [block for page in pages for block in code.findall(page.read_text())]
    assert len(blocks) == len(pages) == 4
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, USE])], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
