"""Whatever is changed in a record, its archive or its weights is found, named with its file, and hides nothing else."""

from __future__ import annotations

import base64
import copy
import hashlib
import itertools
import json
import random
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from made_sweeps import first as standing
from made_sweeps import measured, result
from records_factory import ENV, epoch_metrics, evaluation, model_card, sha, training_info, training_record
from torch import nn

from deatbench.engine.checkpoint import weights_sha256
from deatbench.errors import CheckpointError
from deatbench.evidence import AdversarialImages, with_evidence, write_evaluation
from deatbench.records import (
    AttackResult,
    CheckResult,
    CurvePoint,
    DatasetInfo,
    EpochMetrics,
    EvaluationRecord,
    PublishedResult,
    Threat,
    TrainingRecord,
    Verification,
    metrics_of,
    pack_bits,
)
from deatbench.report import build_leaderboards
from deatbench.report.audit.arithmetic import record_faults
from deatbench.report.audit.audit import audit
from deatbench.report.audit.training_claims import history_faults
from deatbench.report.audit.weight_hash import state_sha256
from deatbench.store import Home, sha256_of, write_record

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


def weight_file(seed: int) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    return safetensors.torch.save({"w": torch.randn(3, 4, generator=generator), "steps": torch.tensor(seed)})


STEPS = {"steps": 100}
SETTINGS: Json = {
    "autoattack/apgd-ce": STEPS | {"rho": 0.75, "restarts": 1, "eot": 1, "large_reps": False, "loss": "ce"},
    "autoattack/apgd-t": STEPS | {"restarts": 1, "loss": "dlr-targeted", "targets": 9},
    "autoattack/fab-t": STEPS | {"alpha_max": 0.1, "eta": 1.05, "beta": 0.9, "targets": 9},
    "autoattack/square": {"queries": 5000, "p_init": 0.8},
}


def members(
    clean: float, values: dict[str, float], settings: Mapping[str, Json] = SETTINGS, engine: str = "deatbench"
) -> tuple[AttackResult, ...]:
    """What a suite's members have left, in turn."""
    made, before = [], clean
    for name, after in values.items():
        made.append(
            AttackResult(name=name, params=settings[name], seed=0, engine=engine, robust_before=before,
                         robust_after=after, seconds=1.0, forward_passes=10)
        )  # fmt: skip
        before = after
    return tuple(made)


LEFT = {"autoattack/apgd-ce": 0.6, "autoattack/apgd-t": 0.56, "autoattack/fab-t": 0.55, "autoattack/square": 0.55}
SUITE = members(0.9, LEFT)


def record_of(seed: int = 0, **changes: Any) -> EvaluationRecord:
    """An evaluation of the zoo entry of that seed, with a suite and a curve; 4 bits of the last byte are spare."""
    training = training_info(seed)
    made = evaluation(training.run_id, robust={"pgd-20": 0.6, "autoattack": 0.55}, training=training, n=100)
    standing = np.arange(100)
    info = made.model.model_copy(update={"sha256": state_sha256(weight_file(seed), "it")})
    points = (("4/255", 80), ("8/255", 55), ("16/255", 20))
    curve = tuple(
        CurvePoint(eps=float(text.split("/")[0]) / 255, eps_text=text, robust=pack_bits(standing < n))
        for text, n in points
    )
    update = {"id": f"record-{seed}", "model": info, "attacks": (made.attacks[0], *SUITE), "curve": curve}
    return made.model_copy(update=update | changes)


def history(seed: int = 0) -> list[EpochMetrics]:
    """The epochs of that seed's run; the best is the one that `training_info` names, by validation accuracy alone."""
    info, epochs = training_info(seed), []
    for number in range(1, info.epochs + 1):
        best = number == info.checkpoint_epoch
        changes = {"val_robust_acc": 0.6} if best else {"val_clean_acc": 0.95, "val_robust_acc": 0.5}
        changes |= {"seconds": 2.0, "val_fgsm_acc": 0.65, "train_robust_acc": number / 100}
        epochs.append(epoch_metrics(number).model_copy(update=changes))
    rest = info.seconds - 2.0 * (info.epochs - 1)
    return [*epochs[:-1], epochs[-1].model_copy(update={"seconds": rest})]


def trained(seed: int, weights: dict[str, str]) -> TrainingRecord:
    """The record of that run, as the training writes it."""
    epochs = history(seed)
    best, final = epochs[training_info(seed).checkpoint_epoch - 1], epochs[-1]
    validation = {
        name: {"clean_acc": metrics.val_clean_acc, "robust_acc": metrics.val_robust_acc}
        for name, metrics in (("best", best), ("last", final))
    }
    throughput = {"images_per_second": 500.0, "forwards_per_second": 5000.0, "peak_memory_mb": 100.0}
    return training_record(seed, weights=weights, best=best, final=final, validation=validation, throughput=throughput)


def entry(home: Home, seed: int = 0, record: EvaluationRecord | None = None) -> Path:
    """A zoo entry in which everything fits; returns the path of its evaluation."""
    data = weight_file(seed)
    digest = hashlib.sha256(data).hexdigest()
    training = trained(seed, {"best": digest, "last": sha("last")})
    card = model_card(seed, training, weights_bytes=len(data))
    folder = home.zoo / card.dataset / card.threat.slug / card.id
    write_record(folder / "card.json", card)
    (folder / "model.safetensors").write_bytes(data)
    (folder / "metrics.jsonl").write_text("".join(f"{epoch.model_dump_json()}\n" for epoch in history(seed)))
    made = record or record_of(seed)
    write_record(folder / "evaluations" / f"{made.id}.json", made)
    return folder / "evaluations" / f"{made.id}.json"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def faults(home: Home, **options: bool) -> list[str]:
    return [str(fault) for fault in audit(home, **options).faults]


def change(path: Path, edit: Callable[[Json], Any]) -> None:
    raw = json.loads(path.read_text())
    edit(raw)
    path.write_text(json.dumps(raw))


def test_a_sound_home_has_no_fault_and_says_what_was_checked(home: Home) -> None:
    entry(home, 0), entry(home, 1)
    write_record(home.evaluations / "foreign.json", evaluation("foreign", id="foreign"))
    found = audit(home)
    assert found.faults == []
    assert found.summary == "checked 2 cards, 3 evaluations, 2 training curves, 2 weight files: 0 faults"


def test_an_empty_home_has_no_fault(home: Home) -> None:
    assert audit(home).summary == "checked nothing: 0 faults"


# Numbers


def test_a_sound_record_adds_up() -> None:
    assert list(record_faults(record_of().model_dump(mode="json"))) == []


def test_no_verdict_can_be_flipped() -> None:
    raw, rng = record_of().model_dump(mode="json"), random.Random(0)
    for where, key in (
        (raw["samples"], "clean"),
        *((raw["samples"]["robust"], name) for name in ("pgd-20", "autoattack")),
    ):
        kept = where[key]
        for bit in rng.sample(range(104), 40):
            packed = bytearray(base64.b64decode(kept))
            packed[bit // 8] ^= 128 >> bit % 8
            where[key] = base64.b64encode(packed).decode()
            assert list(record_faults(raw)), f"bit {bit} of {key}"
        where[key] = kept


def set_in(*path: str | int, to: Any) -> Callable[[Json], None]:
    def edit(raw: Json) -> None:
        for key in path[:-1]:
            raw = raw[key]
        raw[path[-1]] = to

    return edit


HALF = {"value": 0.5, "n": 100, "ci95": [0.4, 0.6]}


def first(n: int) -> str:
    """Verdicts by which the first n of 100 images withstand."""
    return pack_bits(np.arange(100) < n)


def wrong_made_robust(raw: Json) -> None:
    """An image that is wrong without attack withstands PGD, and everything else agrees with that."""
    clean, robust = np.arange(100) < 90, {"pgd-20": np.arange(100) < 60, "autoattack": np.arange(100) < 55}
    robust["pgd-20"][[59, 95]] = [False, True]
    raw["samples"]["robust"]["pgd-20"] = pack_bits(robust["pgd-20"])
    raw["metrics"] = {name: metric.model_dump(mode="json") for name, metric in metrics_of(clean, robust).items()}


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (set_in("metrics", "pgd-20", "value", to=0.61), "pgd-20 is given as 61.00%, its verdicts make 60.00%"),
        (set_in("metrics", "clean_acc", "ci95", to=[0.85, 0.95]), "clean_acc: the interval"),
        (set_in("metrics", "clean_acc", "n", to=1000), "clean_acc is of 1,000 images"),
        (set_in("metrics", "fgsm", to=HALF), "fgsm has a metric, but no verdicts"),
        (lambda raw: raw["metrics"].pop("worst_case_acc"), "worst_case_acc has verdicts, but no metric"),
        (set_in("dataset", "n", to=1000), "100 verdicts for 1000 images"),
        (wrong_made_robust, "1 images withstand pgd-20 that are wrong without attack"),
        (set_in("attacks", 0, "robust_after", to=0.5), "pgd-20 leaves 60.00% by its verdicts, 50.00% by pgd-20"),
        (set_in("attacks", 0, "robust_before", to=0.8), "pgd-20 starts from 80.00% of the images, 90.00% stood"),
        (set_in("attacks", 4, "robust_after", to=0.5), "autoattack leaves 55.00% by its verdicts, 50.00%"),
        (set_in("attacks", 3, "robust_after", to=0.57), "56.00% stood before it, 57.00% after it"),
        (set_in("attacks", 1, "robust_after", to=0.5), "autoattack/apgd-t starts from 60.00%"),
        (lambda raw: raw["attacks"].pop(0), "nothing is said about how pgd-20 attacked"),
        (set_in("threat", "eps_text", to="0.031"), "threat: eps is written 0.031"),
        (set_in("threat", "eps_text", to="eight"), "eps 'eight' is not a number"),
        (set_in("curve", 0, "eps_text", to="3/255"), "curve: eps is written 3/255"),
        (set_in("curve", 1, "robust", to=first(54)), "the curve at eps 8/255 is not the worst case of the verdicts"),
        (set_in("curve", 2, "robust", to=first(56)), "the curve rises or turns back at eps 16/255"),
        (set_in("id", to="another"), "its id is 'another', its name 'record-0'"),
        (set_in("samples", "clean", to="AAAA"), "samples: 3 bytes of verdicts for 100 images"),
        (set_in("schema_version", to=2), "schema_version"),
        (set_in("extra", to=1), "extra: Extra inputs are not permitted"),
        (set_in("training", "run_id", to="other"), "it is not an evaluation of digits-vgg16-deat-abc123-s0"),
        (set_in("training", "config", "epochs", to=90), "its training was configured otherwise"),
        (set_in("training", "checkpoint", to="ema"), "the training kept no ema weights"),
        (set_in("model", "sha256", to="0" * 64), "0000… is not the weights in model.safetensors"),
        (set_in("adversarials", to={"file": "x.adv", "sha256": "0" * 64, "images": {"pgd-20": 31, "cw": 1}}),
         "31 adversarial images are stored of pgd-20, which broke 30"),
        (set_in("certificates", to={"method": "crown-bab", "proved": first(100), "seconds": 1.0}),
         "images are proved robust that are wrong or broken"),
        (set_in("certificates", to={"method": "crown-bab", "proved": "AAAA", "seconds": 1.0}),
         "certificates: 3 bytes of verdicts for 100 images"),
    ],
)  # fmt: skip
def test_a_changed_evaluation_is_found(home: Home, edit: Callable[[Json], Any], complaint: str) -> None:
    path = entry(home)
    change(path, edit)
    found = faults(home)
    assert any(complaint in line for line in found), found
    assert all(line.startswith(path.relative_to(home.path).as_posix() + ": ") for line in found)


def test_a_provisional_suite_stands_where_one_of_its_members_left_it() -> None:
    standing = np.arange(100)
    made = record_of(curve=()).model_dump(mode="json")
    for left, holds in ((56, True), (57, False)):
        robust = {"autoattack-provisional": standing < left}
        made["samples"]["robust"] = {name: pack_bits(bits) for name, bits in robust.items()}
        made["metrics"] = {
            name: metric.model_dump(mode="json") for name, metric in metrics_of(standing < 90, robust).items()
        }
        assert bool(list(record_faults(made))) is not holds


def test_every_fault_of_every_file_is_said(home: Home) -> None:
    first, second = entry(home, 0), entry(home, 1)
    change(first, set_in("metrics", "pgd-20", "value", to=0.61))
    change(first, set_in("threat", "eps_text", to="0.031"))
    change(first, set_in("seconds", to="long"))
    second.write_text("{")
    found = faults(home)
    assert len([line for line in found if first.name in line]) == 3
    assert len([line for line in found if second.name in line and "is not valid JSON" in line]) == 1


# What stands in several places

OTHER_IMAGES = f"dataset.sha256 {'0' * 16}… of digits test is {sha('digits')[:16]}… in 2 other files"


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (set_in("training", "method", to="pgd-at"), "training.method is 'pgd-at', config.method.name is 'deat'"),
        (set_in("training", "epochs", to=110), "training.epochs is 110, config.epochs is 30"),
        (set_in("training", "seed", to=4), "training.seed is 4, config.seed is 0"),
        (set_in("training", "seconds", to=3.5), "training.seconds is 3.5, the card says 71.0"),
        (set_in("training", "hardware", to="a GPU"), "training.hardware is 'a GPU', the card says '2-core CPU'"),
        (set_in("training", "n_train", to=9), "training.n_train is 9, the card says 1149"),
        (set_in("training", "n_val", to=9), "training.n_val is 9, the card says 288"),
        (set_in("training", "digest", to="0" * 12), "its training was configured otherwise than the card's"),
        (set_in("training", "checkpoint_epoch", to=1), "training.checkpoint_epoch is 1, the card says 28"),
        (set_in("model", "n_params", to=7), "model.n_params is 7, the card says 924000"),
        (set_in("model", "arch", to="wrn"), "model.arch is 'wrn', the card says 'vgg16'"),
        (set_in("model", "params", "width", to=1.0), "model.params is {'width': 1.0}, the card says {'width': 0.25}"),
        (set_in("model", "name", to="mine"), "model.name is 'mine', the card says 'digits-vgg16-deat-abc123-s0'"),
        (set_in("dataset", "sha256", to="0" * 64), OTHER_IMAGES),
        (set_in("dataset", "split", to="train"),
         f"dataset.split train of digits {sha('digits')[:16]}… is test in 2 other files"),
        (set_in("created", to="2999-01-01T00:00:00Z"), "created 2999-01-01T00:00:00Z lies in the future"),
        (set_in("created", to="2999-01-01"), "created 2999-01-01 lies in the future"),
        (set_in("created", to="soon"), "created 'soon' is no time"),
        (set_in("attacks", 0, "params", "steps", to=2000), "attacks: pgd-20: params.steps is 2000"),
        (set_in("attacks", 0, "params", to={}), "attacks: pgd-20: params.steps is None"),
        (set_in("attacks", 0, "name", to="pgd-2000"), "attacks: pgd-2000: params.steps is 20"),
        (set_in("attacks", 0, "name", to="cw-7"), "attacks: cw-7: params.steps is 20"),
        (set_in("attacks", 0, "name", to="fgsm"), "attacks: fgsm: params.steps is 20, it is a single step"),
        (set_in("attacks", 1, "params", "steps", to=5), "autoattack/apgd-ce: params.steps is 5, published 100"),
        (set_in("attacks", 1, "params", to={}), "autoattack/apgd-ce: params do not say how long it searched"),
        (set_in("attacks", 1, "params", "loss", to="mse"), "autoattack/apgd-ce: params.loss is mse, published ce"),
        (set_in("attacks", 1, "params", "restarts", to=5), "apgd-ce: params.restarts is 5, published 1"),
        (set_in("attacks", 1, "params", "large_reps", to=True), "apgd-ce: params.large_reps is True, published False"),
        (set_in("attacks", 2, "params", "targets", to=3), "autoattack/apgd-t: params.targets is 3, published 9"),
        (set_in("attacks", 3, "params", "eta", to=2), "autoattack/fab-t: params.eta is 2, published 1.05"),
        (set_in("attacks", 4, "params", "queries", to=9), "autoattack/square: params.queries is 9, published 5000"),
        (lambda raw: raw["attacks"].pop(), "autoattack consists of apgd-ce, apgd-t, fab-t, square, on record are"),
        (set_in("attacks", 0, "engine", to="pyautoattack 0.2.0"),
         "pgd-20: engine 'pyautoattack 0.2.0', its settings are those of deatbench"),
        (set_in("attacks", 1, "engine", to="pyautoattack 0.2.0"),
         "apgd-ce: engine 'pyautoattack 0.2.0', its settings are those of deatbench"),
        (set_in("attacks", 1, "engine", to="magic"), "apgd-ce: engine 'magic', its settings are those of deatbench"),
        (set_in("attacks", 1, "engine", to="deatbench 9"), "apgd-ce: engine 'deatbench 9', another attack's is 'dea"),
        (set_in("attacks", 2, "seed", to=5), "attacks: autoattack/apgd-t: seed 5, another attack's is 0"),
    ],
)  # fmt: skip
def test_an_evaluation_that_contradicts_itself_or_its_card_is_found(
    home: Home, edit: Callable[[Json], Any], complaint: str
) -> None:
    path = entry(home)
    entry(home, 1)
    write_record(home.evaluations / "foreign.json", evaluation("foreign", id="foreign"))
    change(path, edit)
    found = faults(home)
    assert any(complaint in line for line in found), found
    assert all(line.startswith(path.relative_to(home.path).as_posix() + ": ") for line in found)


PUBLISHED: Json = {
    "autoattack/apgd-ce": {"n_iter": 100, "restarts": 1, "rho": 0.75},
    "autoattack/apgd-t": {"n_iter": 100, "restarts": 1, "rho": 0.75, "targets": 9},
    "autoattack/fab-t": {"n_iter": 100, "restarts": 1, "targets": 9},
    "autoattack/square": {"n_queries": 5000, "restarts": 1, "p_init": 0.8},
}


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda raw: None, None),
        (set_in("attacks", 1, "params", "n_iter", to=10), "autoattack/apgd-ce: params.n_iter is 10, published 100"),
        (set_in("attacks", 4, "params", "n_queries", to=1), "square: params.n_queries is 1, published 5000"),
        (set_in("attacks", 1, "engine", to="deatbench"), "apgd-ce: engine 'deatbench', its settings are those of"),
        (set_in("env", "packages", "pyautoattack", to="9"), "engine 'pyautoattack 0.2.0', installed was 9"),
    ],
)  # fmt: skip
def test_records_of_the_published_code_are_checked_in_its_words(
    home: Home, edit: Callable[[Json], Any], complaint: str | None
) -> None:
    suite = members(0.9, LEFT, PUBLISHED, "pyautoattack 0.2.0")
    path = entry(home, record=record_of(attacks=(record_of().attacks[0], *suite)))
    change(path, edit)
    found = faults(home)
    assert any(complaint in line for line in found) if complaint else found == [], found


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (set_in("training", "best", "val_robust_acc", to=0.9),
         "training.best.val_robust_acc is 0.9, metrics.jsonl says 0.6"),
        (set_in("training", "best", "loss", to=0.1), "training.best.loss is 0.1, metrics.jsonl says 1.2"),
        *((set_in("training", "final", name, to=0.123), f"training.final.{name} is 0.123, metrics.jsonl says ")
          for name in EpochMetrics.model_fields if name != "epoch"),
        (set_in("training", "final", "epoch", to=40), "metrics.jsonl has not the epochs 1 to 40, each once"),
        (set_in("training", "final", "epoch", to=10**15), "training.final.epoch is 1000000000000000, config.epochs is"),
        (set_in("training", "best_epoch", to=3), "training.best_epoch is 3, by metrics.jsonl 28"),
        (set_in("training", "best_epoch", to=99), "training.best_epoch is 99, metrics.jsonl has no such epoch"),
        (set_in("training", "best", "epoch", to=3), "training.best.epoch is 3, best_epoch is 28"),
        (set_in("training", "seconds", to=70.9), "training.seconds is 70.9, the epochs of metrics.jsonl took 71.00"),
        (set_in("training", "throughput", "images_per_second", to=900),
         "training.throughput.images_per_second is 900.0, by metrics.jsonl 500.0"),
        (set_in("training", "validation", "best", "robust_acc", to=0.9),
         "training.validation.best.robust_acc is 0.9, epoch 28 has 0.6"),
        (set_in("training", "validation", "last", "clean_acc", to=0.1),
         "training.validation.last.clean_acc is 0.1, epoch 30 has 0.95"),
        (set_in("training", "created", to="2999-01-01T00:00:00Z"), "training.created 2999-01-01T00:00:00Z lies in the"),
        (set_in("training", "hardware", to="a GPU"), "training.hardware is 'a GPU', its env says '2-core CPU'"),
        (set_in("training", "id", to="other"), "training.id is 'other', the card's id is 'digits-vgg16-deat-abc123"),
        (set_in("training", "config", "epochs", to=10), "training.final.epoch is 30, config.epochs is 10"),
        (set_in("training", "config", "dataset", to="svhn"), "training.dataset is 'digits', config.dataset is 'svhn'"),
        (set_in("training", "config", "arch", to={"name": "wrn"}), "training.model.arch is 'vgg16', config.arch.name"),
        (set_in("training", "config", "arch", to={"name": "vgg16", "width": 1}),
         "training.model.params is {'width': 0.25}, config.arch says {'width': 1}"),
        (set_in("training", "config", "threat", to={"norm": "L2", "eps": "8/255"}), "threat.norm is 'Linf', config."),
        (set_in("training", "config", "threat", to={"eps": "1"}), "threat.eps_text is '8/255', config.threat.eps is"),
        (set_in("training", "chosen", to="last"), "checkpoint is 'best', the training chose 'last'"),
    ],
)  # fmt: skip
def test_a_card_that_contradicts_its_epochs_or_itself_is_found(
    home: Home, edit: Callable[[Json], Any], complaint: str
) -> None:
    card = entry(home).parents[1] / "card.json"
    change(card, edit)
    found = faults(home)
    assert f"{card.relative_to(home.path).as_posix()}: {complaint}" in "\n".join(found)


def test_epochs_that_are_cut_short_or_changed_are_found(home: Home) -> None:
    metrics = entry(home).parents[1] / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    for changed, complaint in (
        (lines[:-1], "has not the epochs 1 to 30"),
        (lines[:9] + lines[10:], "has not the epochs 1 to 30"),
        ([], "has no epoch to compare with"),
        (
            [*lines[:4], lines[4].replace('"val_robust_acc":0.5', '"val_robust_acc":0.7'), *lines[5:]],
            "by metrics.jsonl 5",
        ),
        ([*lines[:4], lines[4].replace('"seconds":2.0', '"seconds":1.0'), *lines[5:]], "took 70.00"),
    ):
        metrics.write_text("".join(f"{line}\n" for line in changed))
        assert any(complaint in line for line in faults(home)), complaint


def test_rounding_is_no_contradiction(home: Home) -> None:
    card = entry(home).parents[1] / "card.json"
    change(card, set_in("training", "seconds", to=71.005))
    change(card.parent / "evaluations" / "record-0.json", set_in("training", "seconds", to=71.005))
    assert faults(home) == []


def test_which_epoch_is_best_depends_on_the_method() -> None:
    accuracies = ((0.9, 0.1), (0.5, 0.6), (0.9, 0.1), (0.5, 0.6))
    epochs = [
        epoch_metrics(n).model_copy(update={"val_clean_acc": clean, "val_robust_acc": robust, "val_fgsm_acc": 0.5})
        for n, (clean, robust) in enumerate(accuracies, 1)
    ]
    untried = [epoch.model_copy(update={"val_fgsm_acc": None}) for epoch in epochs]
    unmeasured = [epoch.model_copy(update={"val_clean_acc": None, "val_robust_acc": None}) for epoch in epochs]
    for method, seen, right in (
        ("deat", epochs, {2}),
        ("standard", untried, {1}),
        ("of-my-own", untried, {1, 2}),
        ("deat", unmeasured, {4}),
    ):
        for number in range(1, 5):
            best, config = seen[number - 1], {"method": {"name": method}}
            record = training_record(config=config, best_epoch=number, best=best, final=seen[-1], seconds=9.6)
            assert bool(list(history_faults(record, seen))) is (number not in right), (method, number)


def test_an_evaluation_outside_of_the_zoo_is_held_against_its_own_configuration(home: Home) -> None:
    config = training_info().config | {
        "optimizer": {"name": "sgd"}, "attack": {"bn_mode": "train"}, "recipe": "mine", "dataset": "mnist",
        "arch": {"name": "wrn", "width": 3},
    }  # fmt: skip
    training = training_info(config=config, checkpoint="last", checkpoint_epoch=3)
    write_record(home.evaluations / "foreign.json", evaluation("foreign", id="foreign", training=training))
    assert [line.partition(": ")[2] for line in faults(home)] == [
        "training.recipe is 'digits', config.recipe is 'mine'",
        "training.optimizer is 'deat', config.optimizer.name is 'sgd'",
        "training.bn_mode is 'eval', config.attack.bn_mode is 'train'",
        "model.arch is 'vgg16', config.arch.name is 'wrn'",
        "model.params is {'width': 0.25}, config.arch says {'width': 3}",
        "training.checkpoint_epoch is 3, config.epochs is 30",
    ]


def test_clocks_may_differ_by_a_day(home: Home) -> None:
    for hours, late in ((23, False), (25, True)):
        made = (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
        write_record(home.evaluations / "foreign.json", evaluation("foreign", id="foreign", created=made))
        assert bool(faults(home)) is late


def test_images_in_folders_have_only_a_name_in_common(home: Home) -> None:
    for name, alike in (("folder-64", True), ("mnist", False)):
        for number in range(3):
            images = DatasetInfo(name=name, split="test", n=100, sha256=sha(f"{name} {number // 2}"))
            made = evaluation(f"net-{number}", id=f"net-{number}").model_copy(update={"dataset": images})
            write_record(home.evaluations / f"{made.id}.json", made)
        lines = faults(home)
        assert (lines == []) is alike, lines
        assert alike or [line.partition(":")[0] for line in lines] == ["evaluations/net-2.json"]


REAL = ROOT / "model_zoo" / "cifar10" / "Linf-8_255" / "cifar10-vgg11-awp-585bd1-s0"


@pytest.mark.skipif(not REAL.is_dir(), reason="not a checkout of the repository")
@pytest.mark.parametrize(
    ("file", "edit", "complaint"),
    [
        ("evaluation", set_in("training", "method", to="pgd-at"), "training.method is 'pgd-at', config.method.name is"),
        ("evaluation", set_in("training", "optimizer", to="deat"), "training.optimizer is 'deat', config.optimizer"),
        ("evaluation", set_in("training", "seconds", to=1.0), "training.seconds is 1.0, the card says 778.31"),
        ("evaluation", set_in("model", "n_params", to=11_000_000), "model.n_params is 11000000, the card says 145898"),
        ("evaluation", set_in("dataset", "sha256", to="0" * 64), "dataset.sha256 0000"),
        ("evaluation", set_in("attacks", 0, "params", "steps", to=2000), "attacks: pgd-20: params.steps is 2000"),
        ("evaluation", set_in("created", to="2999-01-01T00:00:00Z"), "created 2999-01-01T00:00:00Z lies in the future"),
        ("card", set_in("training", "best", "val_robust_acc", to=0.5), "training.best.val_robust_acc is 0.5, metrics"),
        ("card", set_in("training", "final", "loss", to=0.5), "training.final.loss is 0.5, metrics.jsonl says 1.929"),
        ("card", set_in("training", "seconds", to=90.0), "training.seconds is 90.0, the epochs of metrics.jsonl took"),
        ("card", set_in("training", "n_params", to=9), "model.n_params is 145898, the card says 9"),
        ("diagnostics", set_in("model", "n_params", to=9), "model.n_params is 9, the card says 145898"),
    ],
)  # fmt: skip
def test_one_change_in_a_committed_entry_is_found(
    home: Home, file: str, edit: Callable[[Json], Any], complaint: str
) -> None:
    folder = home.zoo / REAL.relative_to(ROOT / "model_zoo")
    shutil.copytree(REAL, folder)
    assert faults(home) == []
    path = (
        folder / "evaluations" / f"{REAL.name}-best-027c36ad.json" if file == "evaluation" else folder / f"{file}.json"
    )
    change(path, edit)
    assert any(complaint in line for line in faults(home)), faults(home)


# Files and places


def test_cards_and_weights_are_held_against_each_other(home: Home) -> None:
    card = entry(home).parents[1] / "card.json"
    weights = card.with_name("model.safetensors")
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert faults(home) == [f"{weights.relative_to(home.path)}: its SHA-256 is not the one on its card"]
    weights.write_bytes(data + b"x")
    assert "has 321 bytes" in faults(home)[0] or "on its card" in faults(home)[0]
    weights.write_bytes(data)
    for edit, complaint in (
        (set_in("weights_sha256", to="0" * 64), "weights_sha256 is not that of the training's best weights"),
        (set_in("dataset", to="cifar10"), "it belongs to cifar10/Linf-8_255/, not digits/Linf-8_255/"),
        (set_in("id", to="other"), "its id is 'other'"),
        (set_in("model", "arch", to="vgg19"), "model is not the one that was trained"),
        (set_in("weights_file", to="../../secret.safetensors"), "is not a .safetensors file beside it"),
        (set_in("weights_file", to="a" * 5000 + ".safetensors"), "does not belong to an entry"),
    ):
        kept = card.read_text()
        change(card, edit)
        assert any(complaint in line for line in faults(home)), complaint
        card.write_text(kept)


def test_weights_that_are_not_here_are_no_fault(home: Home) -> None:
    (entry(home).parents[1] / "model.safetensors").unlink()
    found = audit(home)
    assert found.faults == []
    assert "0 weight files (1 more are kept elsewhere)" in found.summary


def test_weights_are_hashed_as_the_engine_does_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)
            self.norm = nn.BatchNorm2d(2)
            self.register_buffer("short", torch.randn(5, 1).to(torch.bfloat16))
            self.register_buffer("mask", torch.tensor([True, False]))
            self.register_buffer("empty", torch.zeros(0, 4, dtype=torch.float16))

    net = Net()
    data = safetensors.torch.save(net.state_dict(), metadata={"deatbench": "{}"})
    assert state_sha256(data, "it") == weights_sha256(net)
    for damaged in (b"", data[:7], data[:40], data[:-1], b"\xff" * 8 + data[8:], data[:8] + b"[" + data[9:]):
        with pytest.raises(CheckpointError):
            state_sha256(damaged, "it")


def test_archives_are_hashed_and_belong_to_a_record(home: Home) -> None:
    book = AdversarialImages()
    x = np.zeros((2, 1, 4, 4), dtype=np.float32)
    book.add("pgd-20", np.array([60, 61]), x + np.float32(8 / 255), x)
    record, archive = with_evidence(evaluation("foreign", id="foreign"), book)
    path = write_evaluation(home.evaluations, record, archive)
    assert faults(home) == []
    path.with_suffix(".adv").write_bytes(archive + b"x")
    assert faults(home) == ["evaluations/foreign.adv: its SHA-256 is not the one on record"]
    path.with_suffix(".adv").unlink()
    assert "0 archives (1 more are kept elsewhere)" in audit(home).summary
    (home.evaluations / "alone.adv").write_bytes(archive)
    assert faults(home) == ["evaluations/alone.adv: no record beside it names it"]


def test_an_id_is_given_once(home: Home) -> None:
    path = entry(home)
    home.evaluations.mkdir()
    (home.evaluations / path.name).write_bytes(path.read_bytes())
    (fault,) = faults(home)
    assert "its id 'record-0' is also that of" in fault


def test_what_does_not_belong_is_named(home: Home) -> None:
    folder = entry(home).parents[1]
    for stray in ("page.html", "evaluations/deep/x.json", "model.pt"):
        (folder / stray).parent.mkdir(exist_ok=True)
        (folder / stray).write_text("x")
    (home.zoo / "lost.json").write_text("{}")
    (folder / "evaluations" / "link.json").symlink_to("/etc/hostname")
    (home.evaluations / ".unfinished" / "x").mkdir(parents=True)
    (home.evaluations / ".unfinished" / "x" / "key.json").write_text("{")
    (home.evaluations / "notes.txt").write_text("x")
    found = "\n".join(faults(home))
    for name, why in (
        ("page.html", "does not belong to an entry of the zoo"),
        ("x.json", "does not belong"),
        ("model.pt", "does not belong"),
        ("lost.json", "lies outside of <dataset>/<threat>/<id>/"),
        ("link.json", "is a link"),
        ("notes.txt", "is no evaluation nor its archive"),
    ):
        assert f"{name}: {why}" in found
    assert len(found.splitlines()) == 6


def test_second_looks_speak_of_the_bytes_beside_them(home: Home) -> None:
    path = entry(home)
    look = Verification(
        record="record-0", record_sha256=sha256_of(path), created="2026-11-22T10:00:00Z", env=ENV,
        checks=(CheckResult(name="model", status="PASS", detail=""),),
    )  # fmt: skip
    beside = path.parents[1] / "verifications" / "record-0.json"
    write_record(beside, look)
    claim = "it claims a proof, but the evaluation has no adversarial images that could be one"
    assert [line.partition(": ")[2] for line in faults(home)] == [claim]
    unproven = (*look.checks, CheckResult(name="verdicts", status="NOT PROVEN", detail=""))
    look = look.model_copy(update={"checks": unproven})
    write_record(beside, look)
    assert faults(home) == []
    write_record(beside.with_name("other.json"), look)
    write_record(beside.with_name("gone.json"), look.model_copy(update={"record": "gone"}))
    change(path, set_in("seconds", to=1.0))
    assert [line.partition(": ")[2] for line in faults(home)] == [
        "there is no evaluation 'gone' beside it",
        "it speaks of 'record-0', its name of 'other'",
        "the evaluation that it speaks of has been changed since",
    ]


def test_published_results_have_their_own_ids(home: Home) -> None:
    result = PublishedResult(
        id="a", name="A", dataset="cifar10", threat=Threat(norm="Linf", eps=0.031, eps_text="0.031"), arch="x",
        method="m", source="s",
    )  # fmt: skip
    write_record(home.published / "x" / "a.json", result)
    assert faults(home) == []
    write_record(home.published / "y" / "a.json", result)
    (home.published / "x" / "page.html").write_text("x")
    assert faults(home) == [
        "published/x/page.html: is no published result",
        "published/y/a.json: its id 'a' is also that of published/x/a.json",
    ]


# Pages


@pytest.mark.parametrize("weights", ["best", "last"])
def test_a_sweep_whose_numbers_do_not_follow_from_its_bits_is_found(home: Home, weights: str) -> None:
    folder = home.sweeps / "grid"
    folder.mkdir(parents=True)
    made = result({"k": 1}, weights={name: measured({"pgd-20": standing(0.5)}) for name in ("best", "last")})
    lines = folder / "results.jsonl"
    lines.write_text(made.model_dump_json() + "\n")
    found = audit(home)
    assert (found.faults, found.checked["sweeps"], found.checked["runs of sweeps"]) == ([], 1, 1)
    changed = json.loads(lines.read_text())
    changed["weights"][weights]["metrics"]["pgd-20"]["value"] += 0.01
    lines.write_text(json.dumps(changed) + "\n")
    (fault,) = audit(home).faults
    assert fault.file == "sweeps/grid/results.jsonl"
    assert "pgd-20" in fault.message or "verdict bits" in fault.message


def test_pages_are_compared_byte_by_byte(home: Home) -> None:
    entry(home)
    build_leaderboards(home)
    assert faults(home, pages=True) == []
    index, board = home.leaderboards / "index.md", home.leaderboards / "digits" / "Linf-8_255.html"
    index.write_bytes(index.read_bytes() + b"\n")
    board.unlink()
    (home.leaderboards / "mine.html").write_text("x")
    assert [line.partition(":")[0] for line in faults(home, pages=True)] == [
        "leaderboards/digits/Linf-8_255.html",
        "leaderboards/index.md",
        "leaderboards/mine.html",
    ]
    entry(home, 1).write_text("{")
    assert any(line.startswith("leaderboards: cannot be compared") for line in faults(home, pages=True))


# Hostile files


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"null", b"[]", b'"x"', b"{}", b"[" * 100_000, b'{"a":' * 100_000, b'{"id": 1, "id": 2}',
        b'{"threat": {"eps": 1e999}}', b'{"threat": {"eps": NaN}}',
        b'{"threat": {"eps": ' + b"9" * 4000 + b', "eps_text": "1"}}',
        b'{"threat": {"eps": 1, "eps_text": "1e999999999/1"}}', b'{"threat": {"eps": 1, "eps_text": "1/0"}}',
        b'{"samples": {"n": 1e300}, "metrics": 3, "curve": 5}', b'{"threat": {"eps_text": "\\ud800"}}',
    ],
    ids=range(16),
)  # fmt: skip
def test_a_damaged_file_is_one_complaint_and_hides_nothing(home: Home, content: bytes) -> None:
    path = entry(home)
    change(path, set_in("metrics", "pgd-20", "value", to=0.61))
    for name in ("card.json", "metrics.jsonl", "diagnostics.json", "verifications/a.json"):
        file = home.zoo / "digits" / "Linf-8_255" / "hostile" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (home.published / "p").mkdir(parents=True)
    (home.published / "p" / "x.json").write_bytes(content)
    found = faults(home)
    assert all("\n" not in line and len(line) < 900 for line in found)
    assert {"card.json", "diagnostics.json", "a.json", "x.json", path.name} <= {
        line.partition(": ")[0].rpartition("/")[2] for line in found
    }


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [path, *itertools.chain.from_iterable(leaves(inner, (*path, key)) for key, inner in pairs)][not path :]
    return [path]


def test_any_field_may_hold_anything() -> None:
    sound = record_of().model_dump(mode="json")
    values: list[Any] = [None, [], {}, "", "x", -1, 10**400, True, 0.5, [[]], {"a": {}}, "8/255", [1, "a"]]
    for path in leaves(sound):
        for value in values:
            raw = copy.deepcopy(sound)
            set_in(*path, to=value)(raw)
            assert all(isinstance(line, str) for line in record_faults(raw))


def test_names_of_files_cannot_disguise_a_fault(home: Home) -> None:
    home.evaluations.mkdir(parents=True)
    (home.evaluations / "a\nmodel_zoo: fine\x1b[2K.txt").write_text("x")
    (line,) = faults(home)
    assert "\n" not in line
    assert "\x1b" not in line
