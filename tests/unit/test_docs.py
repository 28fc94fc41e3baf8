"""The examples of docs/adding-*.md run as they stand, and what they register works; no key is left unexplained."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from deatbench.config import parse_yaml, validate_config
from deatbench.config.run_config import RunConfig, known_keys
from deatbench.report.sweeps.page import KINDS
from deatbench.sweep.spec import parse_sweep

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


def test_every_key_and_variable_is_explained() -> None:
    page = (DOCS / "configuration.md").read_text()
    every = known_keys(RunConfig)
    groups = {key.rpartition(".")[0] for key in every}
    keys = [key for key in every if key not in groups]
    assert len(keys) > 30
    assert [key for key in keys if f"`{key}`" not in page] == []
    code = "\n".join(path.read_text() for path in (DOCS.parent / "deatbench").rglob("*.py"))
    variables = set(re.findall(r"\bDEATBENCH_[A-Z]+\b", code))
    assert {"DEATBENCH_DATA", "DEATBENCH_OFFLINE"} <= variables
    assert [name for name in sorted(variables) if name not in page] == []


def test_the_recipe_and_the_sweep_of_the_page_are_valid() -> None:
    page = (DOCS / "configuration.md").read_text()
    blocks = [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)]
    recipe, sweep = (next(block for block in blocks if block.startswith(start)) for start in ("summary:", "about:"))
    said = {key: value for key, value in parse_yaml(recipe, "recipe").items() if key not in ("summary", "methods")}
    validate_config({**said, "arch": "vgg16", "dataset": "digits", "method": "deat"})
    assert parse_sweep(sweep, "sweep").spec.report in KINDS


def test_examples_run() -> None:
    pages = sorted(DOCS.glob("adding-*.md"))
    code = re.compile(r"```python\n(.*?)```", re.DOTALL)
    blocks = [block for page in pages for block in code.findall(page.read_text())]
    assert len(blocks) == len(pages) == 4
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, USE])], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
