"""What a user asks of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from deatbench.attacks import Attack, make_attack
from deatbench.attacks.base import Engine
from deatbench.attacks.transfer import Transfer
from deatbench.engine.checkpoint import weights_sha256
from deatbench.engine.search import Precision
from deatbench.engine.trial import Draws
from deatbench.models import LoadedModel


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be measured and how; the defaults are those of `deatbench eval`.

    Args:
        attacks: names, tried in this order.
        n: the first n test images; None: all.
        seed: of the attacks.
        batch_size: rows of work at once; None: what suits the device.
        engine: whose code runs AutoAttack, ours ("fast") or pyautoattack ("reference").
        precision: of our attacks' search; verdicts are float32.
        compiled: torch.compile for the search; None: on a GPU where there is enough to do.
        draws: "published" takes pyautoattack's random numbers in its order: the same verdicts, bound to the batch size.
        eps_sweep: further radii, such as "4/255", for a robustness curve.
        certificates: spare images our attacks that a proof covers; no verdict changes.
        save_adversarials: keep an adversarial image for each broken one, as proof.
        surrogate: the network that the `transfer` attack makes its images on.
        fresh: forget the progress of an earlier try.
    """

    attacks: tuple[str, ...]
    n: int | None = None
    seed: int = 0
    batch_size: int | None = None
    engine: Engine = "fast"
    precision: Precision = "fp32"
    compiled: bool | None = None
    draws: Draws = "own"
    eps_sweep: tuple[str, ...] = ()
    certificates: bool = True
    save_adversarials: bool = False
    surrogate: LoadedModel | None = None
    fresh: bool = False

    def make_attacks(self) -> list[Attack]:
        """The attacks themselves. Raises ConfigError or UnknownNameError."""
        return [
            _transfer_from(self.surrogate)
            if name == "transfer" and self.surrogate
            else make_attack(name).by(self.engine)
            for name in self.attacks
        ]


def _transfer_from(surrogate: LoadedModel) -> Transfer:
    module = surrogate.module.eval().requires_grad_(False)
    return Transfer(module, surrogate.source, weights_sha256(module))
