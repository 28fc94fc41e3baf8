"""Synthetic sweeps: results with chosen verdicts, made up for tests; nothing in them was trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from records_factory import sha

from deatbench.records import (
    DatasetInfo,
    EpochSeries,
    Flag,
    Generalisation,
    MeasuredWeights,
    Samples,
    SweepPoint,
    SweepResult,
    Threat,
    digest_of,
    metrics_of,
    pack_bits,
)
from deatbench.report.deat.claim import table2
from deatbench.report.sweeps.reading import Swept

N = 400
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 5e-4}
HEAVY = SGD | {"momentum": 0.9}
DEAT = {"name": "deat", "lr": 0.1, "k1": 1.0, "k2": 0.8, "normalize": True, "weight_decay": 5e-4, "decoupled": False}


def first(share: float, n: int = N) -> np.ndarray:
    """Verdicts in which the first `share` of n images withstand."""
    return np.arange(n) < round(share * n)


def measured(
    verdicts: Mapping[str, np.ndarray], clean_N: np.ndarray | None = None, gap: tuple[float, float] = (0.6, 0.5)
) -> MeasuredWeights:
    """Weights that withstood as `verdicts` say; `gap`: train and test robust accuracy."""
    n = len(next(iter(verdicts.values())))
    clean_N = np.ones(n, dtype=bool) if clean_N is None else clean_N
    samples = Samples(n=n, clean=pack_bits(clean_N), robust={name: pack_bits(v_N) for name, v_N in verdicts.items()})
    gained = Generalisation(
        attack="pgd-10", n=360, train_clean_acc=0.9, train_robust_acc=gap[0], test_clean_acc=0.8, test_robust_acc=gap[1]
    )
    return MeasuredWeights(
        metrics=metrics_of(clean_N, dict(verdicts)), samples=samples, generalisation=gained, seconds=2
    )


def result(
    settings: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None = None,
    *,
    weights: Mapping[Any, MeasuredWeights] | None = None,
    method: str | None = None,
    arch: str = "vgg16",
    width: float = 0.25,
    seed: int = 0,
    validation: Sequence[float | None] = (0.3, 0.4, 0.5),
    label: str | None = None,
    flags: Sequence[Flag] = (),
    **config: Any,
) -> SweepResult:
    """A finished run that lies at `settings`; its seed is one of them."""
    optimizer = dict(optimizer or DEAT)
    settings = {**settings, "seed": seed}
    made = {
        "recipe": "digits", "arch": {"name": arch, "width": width}, "dataset": "digits",
        "method": {"name": method or ("deat" if optimizer["name"] == "deat" else "pgd-at")}, "optimizer": optimizer,
        "attack": {"steps": 10, "rel_step": 0.25, "bn_mode": "eval"}, "epochs": len(validation), "batch_size": 32,
        **config,
    }  # fmt: skip
    digest = digest_of(made)
    return SweepResult(
        run_id=f"digits-{arch}-{digest}-s{seed}",
        digest=digest,
        points=(SweepPoint(label=label or " ".join(f"{k}={v}" for k, v in settings.items()), settings=settings),),
        evaluation="00efa1e1",
        config=made | {"seed": seed},
        n_params=232130,
        dataset=DatasetInfo(name="digits", split="test", n=N, sha256=sha("digits")),
        threat=Threat(norm="Linf", eps=0.2, eps_text="0.2"),
        best_epoch=max(range(len(validation)), key=lambda turn: validation[turn] or 0.0) + 1,
        chosen="best",
        weights=dict(weights)
        if weights
        else {"best": measured({"pgd-20": first(0.5)}), "last": measured({"pgd-20": first(0.5)})},
        epochs=_series(validation),
        flags=tuple(flags),
        seconds=60.0,
        hardware="2-core CPU",
        threads=1,
        torch="2.11",
    )


def _series(validation: Sequence[float | None]) -> EpochSeries:
    values = tuple(validation)
    known = tuple(0.1 if value is None else value for value in values)
    return EpochSeries(
        lr=(0.1,) * len(values), loss=(1.0,) * len(values), train_clean_acc=(None,) * len(values),
        train_robust_acc=known, subset_clean_acc=known, subset_robust_acc=tuple(value + 0.1 for value in known),
        val_clean_acc=values, val_robust_acc=values,
    )  # fmt: skip


def papers_sweep() -> Swept:
    """The numbers of the DEAT paper's Table 2 as results: of 10,000 images as many withstand as it says."""
    found = []
    for series in table2():
        columns = (("pgd-at", SGD, series.pgd_at), ("deat", DEAT, series.deat))
        for update, optimizer, values in columns:
            for rate, value in zip(series.rates, values, strict=True):
                settings = {"arch": series.arch, "optimizer.lr": rate, "update": update}
                robust = {"pgd-10": first(value / 100, 10_000)}
                made = {"last": measured(robust), "best": measured(robust)}
                found.append(
                    result(settings, optimizer | {"lr": rate}, weights=made, arch=series.arch, width=1.0,
                           validation=(0.1, value / 100))
                )  # fmt: skip
    return swept("deat-table2", found, kind="table2")


def swept(name: str, results: Iterable[SweepResult], **said: Any) -> Swept:
    """A sweep of these results, all of them planned, and `also` some that are missing."""
    results = tuple(results)
    planned = {each.run_id: tuple(point.label for point in each.points) for each in results}
    return Swept(name, results, planned=planned | dict(said.pop("also", {})), **said)


def table2_sweep(seeds: int = 3, rates: Sequence[float] = (0.01, 0.1, 0.3), **said: Any) -> Swept:
    """A small experiment of Table 2's kind: three updates, DEAT ahead, AutoAttack beside PGD."""
    random = np.random.default_rng(0)
    found = []
    for update, optimizer, lead in (("pgd-at m=0", SGD, 0.0), ("pgd-at m=.9", HEAVY, 0.05), ("deat", DEAT, 0.06)):
        for turn, rate in enumerate(rates):
            for seed in range(seeds):
                level = 0.35 + 0.05 * turn + lead
                made = {name: _noisy(level + shift, random) for name, shift in (("best", 0.02), ("last", 0.0))}
                found.append(
                    result({"optimizer.lr": rate, "update": update}, optimizer | {"lr": rate}, weights=made, seed=seed,
                           validation=tuple(np.linspace(0.1, level, 8).round(3)))
                )  # fmt: skip
    return swept("mine", found, kind="table2", **said)


def _noisy(level: float, random: np.random.Generator) -> MeasuredWeights:
    hard_N = np.linspace(0, 1, N) + random.normal(0, 0.1, N)
    robust = {"pgd-20": hard_N < level, "autoattack": hard_N < level - 0.04}
    return measured(robust, hard_N < 0.9, (level + 0.1, level))


def write_sweep(home: Path, sweep: Swept) -> Path:
    """The sweep as `deatbench sweep` leaves it; its folder."""
    folder = home / "sweeps" / sweep.name
    (folder / "failures").mkdir(parents=True)
    kind = f"report: {sweep.kind}\n" if sweep.kind else ""
    (folder / "sweep.yaml").write_text(f"about: {json.dumps(sweep.about)}\n{kind}axes:\n  seed: [0, 1]\n")
    points = [{"run_id": key, "evaluation": "00efa1e1", "label": label, "settings": {}}
              for key, labels in sweep.planned.items() for label in labels]  # fmt: skip
    (folder / "points.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    lines = sorted(sweep.results, key=lambda each: each.run_id)
    (folder / "results.jsonl").write_text("".join(each.model_dump_json() + "\n" for each in lines))
    for run_id, error in sweep.failed.items():
        failure = {"schema_version": 1, "run_id": run_id, "attempts": 3, "error": error, "trace": ""}
        (folder / "failures" / f"{run_id}.json").write_text(json.dumps(failure))
    return folder
