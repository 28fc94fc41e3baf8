"""Proving once more what a record says is proved: the only robust verdicts that need no trust."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from deatbench.certificates import Certifier, NotCertifiable, read
from deatbench.certificates.certify import SLACK
from deatbench.certificates.reading import PROBE
from deatbench.data import Images
from deatbench.pipeline.checks import Check, Status
from deatbench.records import Certificates
from deatbench.threats import ThreatModel

NAME = "certificates"


def certified_again(
    certificates: Certificates, module: nn.Module, images: Images, threat: ThreatModel, tell: Callable[[int], None]
) -> Check:
    """Each image that is called proved is proved again, on the CPU; with half the slack, since machines round."""
    proved = np.flatnonzero(certificates.proved_N(len(images)))
    if not len(proved):
        return Check(NAME, Status.PASS, "none is claimed")
    if threat.norm != Certifier.norm:
        return Check(NAME, Status.FAIL, f"there are none for {threat.norm}", len(proved), len(proved))
    batches = images.batches(torch.from_numpy(proved).split(PROBE), torch.device("cpu"))
    module, failed = copy.deepcopy(module).cpu(), 0
    certifier: Certifier | None = None
    for x_NCHW, y_N in batches:
        if certifier is None:
            try:
                certifier = Certifier(read(module, x_NCHW), threat, slack=SLACK / 2)
            except NotCertifiable as error:
                return Check(NAME, Status.FAIL, error.message, len(proved), len(proved))
        failed += sum(not certifier.proved(x_CHW, label) for x_CHW, label in zip(x_NCHW, y_N.tolist(), strict=True))
        tell(len(x_NCHW))
    return Check.counted(NAME, len(proved), failed, "proved robust again, against any attack")
