"""The proof that travels with a number: the adversarial image of each broken verdict, bit for bit. No torch.

book = AdversarialImages()                                    the evaluation collects
book.add("pgd-20", indices_B, x_adv_BCHW, x_BCHW)
record, archive = with_evidence(record, book)                 the record names its archive
write_evaluation(folder, record, archive)
for part in Archive(path).sections(): part.images(x_MCHW)     whoever doubts reads it
"""

from deatbench.evidence.archive import SUFFIX, ArchiveHeader, with_evidence, write_evaluation
from deatbench.evidence.images import AdversarialImages, StoredImages
from deatbench.evidence.reading import Archive

__all__ = [
    "SUFFIX",
    "AdversarialImages",
    "Archive",
    "ArchiveHeader",
    "StoredImages",
    "with_evidence",
    "write_evaluation",
]
