"""Transfer: images that are adversarial for one network, tried on another.

Papernot, McDaniel, Goodfellow 2016, "Transferability in Machine Learning: from Phenomena to Black-Box Attacks using
Adversarial Samples" (arXiv 1605.07277). It asks nothing of the target but its verdict, so that masked gradients do not
help: where it breaks more than a white-box attack, that attack was not working.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deatbench.attacks.base import ATTACKS, Attack, make_attack
from deatbench.attacks.borrow import mode
from deatbench.attacks.gradient import InterruptedGradient
from deatbench.attacks.gradient_ascent import GradientAscent
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.attacks.rng import ExampleRng
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel


@ATTACKS.register("transfer")
@dataclass(frozen=True)
class Transfer(Attack):
    """Adversarial images made on another network, named by --surrogate (Papernot et al. 2016).

    Args:
        surrogate: the network they are made on: takes the target's images, returns logits of the same classes.
        source: how to name the surrogate again, without paths of this machine.
        sha256: of its weights.
        inner: the attack on the surrogate: `pgd-K`, `cw-K` or `fgsm`, which go on once they have crossed its boundary.

    Raises ConfigError without a surrogate, on another inner attack, and on a surrogate that does not fit the target.
    """

    gradient_free: ClassVar[bool] = True

    surrogate: nn.Module | None = field(default=None, repr=False)
    source: str = ""
    sha256: str = ""
    inner: str = "pgd-20"

    def __post_init__(self) -> None:
        if self.surrogate is None:
            raise ConfigError("transfer needs a network to make its images on", "name it with --surrogate MODEL")
        if not isinstance(make_attack(self.inner), GradientAscent):
            raise ConfigError(
                f"transfer: {self.inner} stops at the surrogate's boundary, where little transfers", "use pgd-K or cw-K"
            )

    @property
    def name(self) -> str:
        return "transfer"

    def passes(self, num_classes: int) -> int:
        return make_attack(self.inner).passes(num_classes)

    def params(self, num_classes: int = 10) -> dict[str, Any]:
        named = {"surrogate": self.source, "surrogate_sha256": self.sha256, "inner": self.inner}
        return {**named, **make_attack(self.inner).params()}

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        assert self.surrogate is not None  # __post_init__ saw to it
        with mode(self.surrogate, training=False):
            self._check_fit(model, x_NCHW[:1])
            try:
                return make_attack(self.inner)(self.surrogate, x_NCHW, y_N, threat, rng)
            except InterruptedGradient as error:
                raise ConfigError(
                    f"the surrogate {self.source}: its gradient is interrupted", "name another with --surrogate"
                ) from error

    def _check_fit(self, model: nn.Module, x_1CHW: Tensor) -> None:
        """The surrogate tells as many classes apart as the target."""
        with torch.no_grad():
            ours, theirs = model(x_1CHW).shape[1], self.surrogate(x_1CHW).shape[1]  # type: ignore[misc]
        if ours != theirs:
            raise ConfigError(
                f"the surrogate {self.source} tells {theirs} classes apart, the model {ours}",
                "--surrogate takes a network for the same data set",
            )
