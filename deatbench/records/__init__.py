"""The records: what was trained, how it was attacked, which images survived. Plain data, no torch.

A record is frozen, versioned and complete: every published number can be recomputed from the verdict bits
that it carries, and an `EvaluationRecord` whose metrics disagree with its bits does not load.
"""

from deatbench.records.base import METADATA_KEY, Checkpoint, Env, Flag, Identifier, Norm, Record, Sha256, digest_of
from deatbench.records.card import ModelCard
from deatbench.records.diagnostics import Diagnostics, Exhibit, RadiusPoint, pack_classes, unpack_classes
from deatbench.records.evaluation import (
    AdversarialArchive,
    AttackResult,
    Certificates,
    CurvePoint,
    DatasetInfo,
    EvaluationRecord,
    Generalisation,
)
from deatbench.records.network import ModelInfo, ModelSpec
from deatbench.records.published import PublishedResult
from deatbench.records.sweep import EpochSeries, MeasuredWeights, SweepPoint, SweepResult
from deatbench.records.threat import Threat, check_radius, parse_eps
from deatbench.records.training import Accuracies, EpochMetrics, Throughput, TrainingInfo, TrainingRecord
from deatbench.records.verdicts import Metric, Samples, metrics_of, pack_bits, unpack_bits, wilson_interval
from deatbench.records.verification import CheckResult, Outcome, RepeatedMetric, Reproduction, Verification

__all__ = [
    "METADATA_KEY",
    "Accuracies",
    "AdversarialArchive",
    "AttackResult",
    "Certificates",
    "CheckResult",
    "Checkpoint",
    "CurvePoint",
    "DatasetInfo",
    "Diagnostics",
    "Env",
    "EpochMetrics",
    "EpochSeries",
    "EvaluationRecord",
    "Exhibit",
    "Flag",
    "Generalisation",
    "Identifier",
    "MeasuredWeights",
    "Metric",
    "ModelCard",
    "ModelInfo",
    "ModelSpec",
    "Norm",
    "Outcome",
    "PublishedResult",
    "RadiusPoint",
    "Record",
    "RepeatedMetric",
    "Reproduction",
    "Samples",
    "Sha256",
    "SweepPoint",
    "SweepResult",
    "Threat",
    "Throughput",
    "TrainingInfo",
    "TrainingRecord",
    "Verification",
    "check_radius",
    "digest_of",
    "metrics_of",
    "pack_bits",
    "pack_classes",
    "parse_eps",
    "unpack_bits",
    "unpack_classes",
    "wilson_interval",
]
