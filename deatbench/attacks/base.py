"""What an attack is, and how its name becomes one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from deatbench import __version__
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.attacks.rng import ExampleRng
from deatbench.registry import Registry
from deatbench.threats import ThreatModel

Engine = Literal["reference", "fast"]


@dataclass(frozen=True)
class Attack(ABC):
    """A frozen recipe for finding adversarial images; its fields are its hyper-parameters."""

    own: ClassVar[bool] = True  # our code, not a published package's
    gradient_free: ClassVar[bool] = False
    provisional_after: ClassVar[str] = ""  # the member of a suite after which the others seldom change a verdict

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        """Adversarial images for one batch, inside the threat's ball and [0, 1]. A long search tells `journal`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name under which its numbers are published, such as `pgd-20`."""

    @property
    def engine(self) -> str:
        """Which code runs it, with its version."""
        return f"deatbench {__version__}"

    def by(self, engine: Engine) -> Attack:
        """The same attack run by other code: the published one or ours; itself where there is only one."""
        return self

    def check(self, threat: ThreatModel) -> None:  # noqa: B027 - most attacks are defined everywhere
        """Raises ConfigError where the attack is not defined for `threat`; asked before anything is attacked."""

    @property
    def runs(self) -> int:
        """How often it is tried on the survivors, each time with fresh randomness."""
        return 1

    def members(self, norm: str = "Linf") -> tuple[Attack, ...]:
        """The attacks that it consists of, tried in turn on the survivors; an attack by itself is its only member.

        A suite's settings may depend on the threat's norm.
        """
        return (self,)

    def rows(self, num_classes: int) -> int:
        """Rows of work that one image makes in a batch: the number of target classes attacked together, else 1."""
        return 1

    def passes(self, num_classes: int) -> int:
        """Forward passes that one image costs if it survives; for forecasts and progress bars."""
        raise NotImplementedError

    def params(self, num_classes: int = 10) -> dict[str, Any]:
        """The hyper-parameters as they act on a model of so many classes, for the record."""
        return asdict(self)


ATTACKS: Registry[type[Attack]] = Registry("attack", "deatbench.attacks")


def make_attack(name: str, **params: Any) -> Attack:
    """The attack called `name`. Raises UnknownNameError, or ConfigError on a parameter it refuses."""
    return ATTACKS[name](**ATTACKS.bind(name, params))
