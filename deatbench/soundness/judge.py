"""Checks of an evaluation's outcome: do the verdicts fit together?

`square_beats_whitebox` after AutoAttack's checks (Croce, Hein 2020, arXiv 2003.01690), `transfer_beats_whitebox` after
Carlini et al. 2019, "On Evaluating Adversarial Robustness" (arXiv 1902.06705).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from deatbench.records import AttackResult, Flag
from deatbench.threats import ThreatModel

SQUARE, TRANSFER = "square", "transfer"
GRADIENT_FREE = frozenset({SQUARE, TRANSFER, "gaussian-noise"})  # attacks that see answers alone
BLACK_BOX_GAIN = 0.002  # AutoAttack's threshold: 0.2 points
BLACK_BOX_IMAGES = 2  # one lucky image of a small sample is no evidence
SUITE = "autoattack"  # and its variants: what they miss is little
NOTABLE = 0.1  # of what was broken; on honest networks another try breaks up to 0.03 after pgd-20, 0.06 in L1
PERFECT_ON = 1000  # test sets have label errors (CIFAR-10 0.5 %, MNIST 0.15 %); 360 digits may honestly all be right
UNTOUCHED_ON = 50
USUAL_NUMERATORS = (1, 2, 4, 8, 16)  # the field's radii k/255
NEARLY = 0.025


def judge_results(
    clean_N: np.ndarray, robust: Mapping[str, np.ndarray], results: Sequence[AttackResult], threat: ThreatModel
) -> list[Flag]:
    """The flags that an evaluation's verdicts raise.

    Args:
        clean_N: bool, correct without attack.
        robust: per attack, bool [N], correct under it.
        results: what each attack, or each member of a suite, did.
        threat: the threat that was evaluated.
    """
    checks = (
        square_beats_whitebox(results, len(clean_N)),
        transfer_beats_whitebox(clean_N, robust),
        clean_perfect(clean_N, robust),
        eps_off(threat),
    )
    return [flag for check in checks for flag in check]


def square_beats_whitebox(results: Sequence[AttackResult], n: int) -> Iterator[Flag]:
    """A black-box attack that finds what white-box attacks missed tells of masked gradients."""
    for result in results:
        images = round((result.robust_before - result.robust_after) * n)
        if result.name.endswith(f"/{SQUARE}") and _many(images, n):
            points = 100 * images / n
            message = f"Square fools {points:.1f} points more after white-box attacks: gradients may be masked"
            yield Flag(code="square_beats_whitebox", message=message)


def transfer_beats_whitebox(clean_N: np.ndarray, robust: Mapping[str, np.ndarray]) -> Iterator[Flag]:
    """Images of another network must not break what every white-box attack missed (Carlini et al. 2019).

    A white-box attack sees all that the other network can only guess. After AutoAttack 0.2 points are too many; after
    PGD alone images of a similar network are a restart, which breaks some more on an honest network, too.
    """
    white_box = {name: verdicts_N for name, verdicts_N in robust.items() if name not in GRADIENT_FREE}
    if TRANSFER not in robust or not white_box:
        return
    missed_N = np.logical_and.reduce([clean_N, *white_box.values()])
    images, missed, n = int((missed_N & ~robust[TRANSFER]).sum()), int(missed_N.sum()), len(clean_N)
    thorough = any(name.startswith(SUITE) for name in white_box)
    if _many(images, n) and (thorough or images > NOTABLE * (int(clean_N.sum()) - missed)):
        message = (
            f"images made on another network break {images} of {missed} that withstood every white-box attack: "
            "gradients may be masked"
        )
        yield Flag(code="transfer_beats_whitebox", message=message)


def _many(images: int, n: int) -> bool:
    """Whether a black-box attack's gain is more than luck."""
    return images > BLACK_BOX_GAIN * n and images >= BLACK_BOX_IMAGES


def clean_perfect(clean_N: np.ndarray, robust: Mapping[str, np.ndarray]) -> Iterator[Flag]:
    """No mistake at all: a real test set has wrong labels, which only a memoriser gets right."""
    n = len(clean_N)
    if not clean_N.all():
        return
    if n >= PERFECT_ON:
        yield Flag(code="clean_perfect", message=f"all {n} test images are classified correctly: were they trained on?")
    elif n >= UNTOUCHED_ON and robust and all(verdicts_N.all() for verdicts_N in robust.values()):
        message = f"all {n} images are correct and no attack fools one: eps is too small, or they were trained on"
        yield Flag(code="clean_perfect", message=message)


def eps_off(threat: ThreatModel) -> Iterator[Flag]:
    """0.031 is not 8/255: results at nearly the same radius look comparable and are not."""
    if threat.norm != "Linf":
        return
    for numerator in USUAL_NUMERATORS:
        usual = numerator / 255
        if 1e-6 < abs(threat.eps / usual - 1) <= NEARLY:
            message = f"eps {threat.eps_text} is nearly, but not exactly, the usual {numerator}/255"
            yield Flag(code="eps_off", message=message)
