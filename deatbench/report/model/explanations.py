"""What follows from a flag, for readers who meet it for the first time."""

from __future__ import annotations

MEANINGS = {
    "softmax_output": "Logits that saturate hide the gradient from attacks, so that a number can be too high.",
    "nonfinite_logits": "NaN is counted as a wrong answer, but attacks stop there: the number says little either way.",
    "randomised": "An attack that asks once hits by luck; such a model has to be attacked in expectation.",
    "batch_dependent": "What an image is taken for then depends on its neighbours, and no verdict holds by itself.",
    "interrupted_graph": "Attacks that follow the gradient cannot work here: only those that ask for answers count.",
    "zero_gradient": "Where there is no gradient, attacks that follow it do not move: the number is likely too high.",
    "false_gradient": "The gradient does not lead uphill and sends attacks astray: the number is likely too high.",
    "square_beats_whitebox": "An attack that sees answers alone should not beat those that see all of the network.",
    "transfer_beats_whitebox": "A network that is only guessed should not serve an attack better than the real one.",
    "unbounded_fails": "Without a bound every image can be turned into another; an attack that cannot is no measure.",
    "silent_success": "The attack found images and lost them again: keeping them would lower the number.",
    "not_converged": "More steps would lower the number: it says more about the attack than about the network.",
    "not_monotone": "What breaks an image nearby is allowed further out as well: the number is too high.",
    "clean_perfect": "Test sets hold wrong labels; all of them right suggests that the images were known.",
    "eps_off": "Numbers of different radii are not comparable, however close the radii are.",
    "provisional": "More attacks can only lower the number.",
    "verification_failed": "Somebody looked again at what is stored, and it is not what the record says.",
    "not_reproduced": "Somebody ran the same recipe again, and the outcome lies beyond what chance explains.",
    "nonfinite_loss": "Training went on from weights before that, or ended there.",
    "catastrophic_overfitting": "From then on attacks of one step say nothing: PGD breaks what they leave.",
    "collapse": "The network gives nearly the same answer for every image.",
    "resumed_elsewhere": "On another machine, rounding differs: the run cannot be repeated bit by bit.",
}


def meaning(code: str) -> str:
    """A sentence on what a flag of this code means for the number; empty for a code that nobody explained."""
    return MEANINGS.get(code, "")
