"""Attacks: one file each. An attack turns images into adversarial ones of the same batch, and judges nothing.

    attack(model, x_NCHW, y_N, threat, rng) -> x_adv_NCHW

x in [0, 1] float32, y int64 class indices; the model returns logits and is left as it was found. Whether an
adversarial image counts is decided by the engine, never by the attack.
"""

from deatbench.attacks.base import ATTACKS, Attack, make_attack

__all__ = ["ATTACKS", "Attack", "make_attack"]
