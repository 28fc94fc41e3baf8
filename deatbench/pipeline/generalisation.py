"""The robust generalisation gap: the training's own attack on training images and on as many test images.

Rice, Wong, Kolter 2020, "Overfitting in adversarially robust deep learning" (arXiv 2002.11569): robust accuracy on
training images goes on rising long after that on test images has begun to fall.
"""

from __future__ import annotations

import torch
from torch import nn

from deatbench.attacks.pgd import PGD
from deatbench.config import RunConfig
from deatbench.data import Dataset, Images
from deatbench.engine.evaluate import Settings
from deatbench.engine.evaluate import evaluate as attack_model
from deatbench.engine.search import strict_float32
from deatbench.engine.seeding import epoch_order
from deatbench.records import Generalisation
from deatbench.threats import make_threat

IMAGES = 1000  # of each kind
BATCH = 500


def measure_generalisation(module: nn.Module, data: Dataset, config: RunConfig, device: torch.device) -> Generalisation:
    """PGD as in training, but in float32, on the first test images and a fixed choice of training images."""
    n = min(IMAGES, len(data.train), len(data.test))
    attack = PGD(steps=config.attack.steps, rel_step=config.attack.rel_step)
    threat = make_threat(config.threat.norm, config.threat.eps)

    def accuracies(images: Images) -> tuple[float, float]:
        settings = Settings(seed=config.seed, batch_size=BATCH)
        with strict_float32():
            done = attack_model(module, images, threat, [attack], settings, device=device)
        return float(done.clean_N.mean()), float(done.robust[attack.name].mean())

    train_clean, train_robust = accuracies(data.train.subset(epoch_order(len(data.train), 0, -1)[:n]))
    test_clean, test_robust = accuracies(data.test.subset(torch.arange(n)))
    return Generalisation(
        attack=attack.name,
        n=n,
        train_clean_acc=train_clean,
        train_robust_acc=train_robust,
        test_clean_acc=test_clean,
        test_robust_acc=test_robust,
    )
