"""From the adversarial images that an evaluation kept to the archive beside its record."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from deatbench.data import Images
from deatbench.evidence import AdversarialImages, with_evidence
from deatbench.records import EvaluationRecord

AT_ONCE = 500


def proved(
    record: EvaluationRecord, kept: Mapping[str, tuple[np.ndarray, np.ndarray]], images: Images
) -> tuple[EvaluationRecord, bytes]:
    """The record that names its archive, and the archive (write both with `evidence.write_evaluation`).

    Args:
        kept: per attack, positions in `images` and the adversarial images there, float32 [B, C, H, W], as confirmed.
        images: those that were evaluated.

    A suite that was interrupted has verdicts as of its provisional point: of its images those are stored which were
    broken by then.
    """
    book, clean_N = AdversarialImages(), record.samples.clean_N()
    for attack in record.samples.robust:
        broken_N = clean_N & ~record.samples.robust_N(attack)
        for name in dict.fromkeys((attack, attack.removesuffix("-provisional"))):
            if name in kept:
                indices_B, x_adv_BCHW = kept[name]
                chosen = np.flatnonzero(broken_N[indices_B])
                parts = [chosen[i : i + AT_ONCE] for i in range(0, len(chosen), AT_ONCE)]
                batches = images.batches([torch.from_numpy(indices_B[part]) for part in parts], torch.device("cpu"))
                for part, (x_BCHW, _) in zip(parts, batches, strict=True):
                    book.add(attack, indices_B[part], x_adv_BCHW[part], x_BCHW.numpy())
                break
    return with_evidence(record, book)
