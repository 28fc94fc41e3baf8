"""Certificates in an evaluation spare attacks and change no verdict, whatever interrupts them, whoever shares them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import call, environment
from small_nets import SHARED_NETS, PublishedNet, write_factories
from test_evaluation_progress import begun, shared_by
from torch import nn

from deatbench.attacks import Attack, make_attack
from deatbench.certificates import Certifier
from deatbench.data import Dataset, Images
from deatbench.engine import proofs
from deatbench.engine.evaluate import evaluate
from deatbench.engine.evaluation import Evaluation
from deatbench.engine.monitor import Monitor
from deatbench.engine.progress import SavedProgress
from deatbench.engine.trial import Settings
from deatbench.errors import DeatbenchError
from deatbench.records import EvaluationRecord, pack_bits
from deatbench.threats import make_threat

LINF = make_threat("Linf", "0.1")
ATTACKS = [make_attack("apgd-ce", steps=15), make_attack("apgd-t")]
SPARING = Settings(certificates=True)
TASK = ("./net.py:net", "--dataset", "digits", "--eps", "0.1", "--images", "90", "--attacks", "apgd-ce,apgd-t")
ARGUMENTS = (*TASK, "--json")


@pytest.fixture
def images(digits: Dataset) -> Images:
    return digits.test.subset(torch.arange(90))


@pytest.fixture
def folder(robust_net: nn.Module, standard_net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the small robust network in it."""
    monkeypatch.chdir(tmp_path)
    write_factories(tmp_path, robust_net, standard_net)
    return tmp_path


def assert_same_verdicts(done: Evaluation, other: Evaluation) -> None:
    assert done.robust.keys() == other.robust.keys()
    for name, robust_N in done.robust.items():
        assert np.array_equal(robust_N, other.robust[name])


def proved(done: Evaluation) -> int:
    return 0 if done.proved_N is None else int(done.proved_N.sum())


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_verdicts_with_fewer_passes(robust_net: nn.Module, images: Images, workers: int) -> None:
    whole = evaluate(robust_net, images, LINF, ATTACKS, Settings(workers=workers))
    spared = evaluate(robust_net, images, LINF, ATTACKS, Settings(workers=workers, certificates=True))
    assert_same_verdicts(spared, whole)
    assert whole.proved_N is None
    assert spared.proved_N is not None
    assert 30 < proved(spared) < spared.robust["apgd-t"].sum() < 90
    assert not (spared.proved_N & ~spared.robust["apgd-t"]).any()
    (first, second), (all_first, all_second) = (
        [attack.forward_passes for attack in done.attacks] for done in (spared, whole)
    )
    assert first == all_first
    assert second < 0.7 * all_second


def test_another_radius_is_attacked_in_full(robust_net: nn.Module, images: Images) -> None:
    sweep = [make_threat("Linf", "0.2"), make_threat("Linf", "0.05")]
    whole = evaluate(robust_net, images, LINF, ATTACKS, sweep=sweep)
    spared = evaluate(robust_net, images, LINF, ATTACKS, SPARING, sweep=sweep)
    assert [verdicts.tolist() for _, verdicts in spared.curve] == [verdicts.tolist() for _, verdicts in whole.curve]
    assert (spared.proved_N & ~spared.curve[-1][1]).any()  # proved at 0.1 says nothing at 0.2


@pytest.mark.parametrize(
    ("attacks", "eps", "norm", "changes"),
    [
        (ATTACKS, "0.1", "Linf", {"draws": "published"}),
        (ATTACKS, "0.5", "L2", {}),
        (["apgd-ce", "pgd-20"], "0.1", "Linf", {}),
        (["pgd-5"], "0.1", "Linf", {}),
    ],
    ids=["published draws", "L2", "little to come", "nothing to come"],
)
def test_no_certificates_where_they_spare_nothing(
    robust_net: nn.Module, images: Images, attacks: list[Attack | str], eps: str, norm: str, changes: dict[str, str]
) -> None:
    made = [make_attack(attack, steps=5) if attack == "apgd-ce" else attack for attack in attacks]
    made = [make_attack(attack) if isinstance(attack, str) else attack for attack in made]
    few = images.subset(torch.arange(12))
    settings = Settings(certificates=True, **changes)  # type: ignore[arg-type]
    assert evaluate(robust_net, few, make_threat(norm, eps), made, settings).proved_N is None  # type: ignore[arg-type]


def test_a_network_that_cannot_be_read_is_attacked(robust_net: nn.Module, images: Images) -> None:
    foreign = nn.Sequential(robust_net, nn.Softplus())
    done = evaluate(foreign.eval(), images.subset(torch.arange(12)), LINF, ATTACKS, SPARING)
    assert done.proved_N is None
    assert done.attacks[1].forward_passes > 1000


class Counting(Monitor):
    """Counts the images on which a proof was tried."""

    def __init__(self) -> None:
        self.tried, self.proving = 0.0, False

    def start(self, title: str, total: float) -> None:
        self.proving = title == "certificates"

    def advance(self, amount: float, status: str = "") -> None:
        self.tried += amount * self.proving


def test_what_cannot_be_bounded_is_attacked(
    robust_net: nn.Module, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*args: object) -> bool:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Certifier, "proved", too_large)
    monkeypatch.setattr(Certifier, "promise", too_large)
    few = images.subset(torch.arange(12))
    done = evaluate(robust_net, few, LINF, ATTACKS, SPARING)
    assert_same_verdicts(done, evaluate(robust_net, few, LINF, ATTACKS, Settings()))
    assert proved(done) == 0


def test_a_proof_that_an_attack_contradicts_ends_the_evaluation(
    robust_net: nn.Module, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published code attacks everything: were a proof wrong, it would be found, and no verdict would be believed."""
    monkeypatch.setattr(Certifier, "proved", lambda *args: True)
    attacks = [make_attack("fgsm"), make_attack("apgd-t"), make_attack("autoattack").by("reference")]
    few = images.subset(torch.arange(12))
    with pytest.raises(DeatbenchError, match="broken that was proved robust"):
        evaluate(robust_net, few, make_threat("Linf", "0.3"), attacks, SPARING)


def test_who_proves_few_goes_on_attacking(
    robust_net: nn.Module, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    eps, counting = make_threat("Linf", "0.15"), Counting()
    done = evaluate(robust_net, images, eps, ATTACKS, SPARING, monitor=counting)
    assert_same_verdicts(done, evaluate(robust_net, images, eps, ATTACKS, Settings()))
    assert proved(done) < counting.tried < done.robust["apgd-ce"].sum()
    monkeypatch.setattr(proofs, "LEAST_SHARE", 0.0)
    stubborn = Counting()
    evaluate(robust_net, images, eps, ATTACKS, SPARING, monitor=stubborn)
    assert stubborn.tried == done.robust["apgd-ce"].sum()


def test_the_most_promising_come_first(robust_net: nn.Module, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """After half of the images most that can be proved are proved."""
    eps = make_threat("Linf", "0.13")
    monkeypatch.setattr(proofs, "LEAST_SHARE", 0.0)
    all_of_them = evaluate(robust_net, images, eps, ATTACKS, SPARING)
    survivors = int(all_of_them.robust["apgd-ce"].sum())
    monkeypatch.setattr(proofs, "FIRST", survivors // 2)
    monkeypatch.setattr(proofs, "LEAST_SHARE", 1.1)
    half = evaluate(robust_net, images, eps, ATTACKS, SPARING)
    assert 4 < proved(all_of_them) < survivors
    assert proved(half) > 0.8 * min(proved(all_of_them), survivors // 2)


class Impatient(Counting):
    """Presses Ctrl-C once so many waves are through."""

    def __init__(self, waves: int) -> None:
        super().__init__()
        self.waves = waves

    def advance(self, amount: float, status: str = "") -> None:
        super().advance(amount, status)
        if self.proving and self.tried > self.waves * proofs.WAVE:
            raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [1, 3])
def test_interrupted_while_proving(robust_net: nn.Module, images: Images, tmp_path: Path, workers: int) -> None:
    settings, threads = replace(SPARING, workers=workers), torch.get_num_threads()
    whole = evaluate(robust_net, images, LINF, ATTACKS, settings)
    for waves in (0, 1, 2):
        progress = SavedProgress(tmp_path / "state", {"of": "this test"})
        stopped = evaluate(robust_net, images, LINF, ATTACKS, settings, progress=progress, monitor=Impatient(waves))
        assert stopped.missing == ("apgd-t",)
        assert torch.get_num_threads() == threads
        assert np.array_equal(stopped.robust["apgd-ce"], whole.robust["apgd-ce"])
        assert proved(stopped) <= (waves + 1) * proofs.WAVE
    progress = SavedProgress(tmp_path / "state", {"of": "this test"})
    done = evaluate(robust_net, images, LINF, ATTACKS, settings, progress=progress)
    assert_same_verdicts(done, whole)
    assert np.array_equal(done.proved_N, whole.proved_N)  # type: ignore[arg-type]


def test_killed_while_proving(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = EvaluationRecord.model_validate_json(
        call(capsys, "eval", *ARGUMENTS, "--out", "whole", "--threads", "1").out
    )
    command = [sys.executable, "-m", "deatbench", "eval", *ARGUMENTS, "--threads", "1"]
    killed = 0
    for units in (4, 12, 25):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as child:
            deadline = time.monotonic() + 100
            while begun() < units:
                assert child.poll() is None, child.communicate()
                assert time.monotonic() < deadline
            child.send_signal(signal.SIGKILL)
            killed += child.wait() == -signal.SIGKILL
    assert killed == 3
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert "continuing an evaluation that was stopped" in done.stderr
    record = EvaluationRecord.model_validate_json(done.stdout)
    assert record.samples == whole.samples
    assert record.certificates is not None
    assert whole.certificates is not None
    assert record.certificates.proved == whole.certificates.proved


def test_processes_prove_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = EvaluationRecord.model_validate_json(call(capsys, "eval", *ARGUMENTS).out)
    record = shared_by(2, *ARGUMENTS, "--out", "shared")
    assert record.samples == alone.samples
    assert record.certificates is not None
    assert alone.certificates is not None
    assert record.certificates.proved == alone.certificates.proved


def test_the_user_sees_them_and_can_do_without(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "eval", *TASK)
    (path,) = folder.glob("evaluations/*.json")
    record = EvaluationRecord.model_validate_json(path.read_text())
    assert record.certificates is not None
    n = int(record.certificates.proved_N(90).sum())
    assert f"certificates: {n} of 90 images proved robust; no attack can break them" in done.err
    without = call(capsys, "eval", *TASK, "--no-certificates", "--fresh")
    again = EvaluationRecord.model_validate_json(path.read_text())  # the same evaluation: no verdict depends on it
    assert again.certificates is None
    assert again.samples == record.samples
    assert "proved" not in without.err


# -- `deatbench verify` ------------------------------------------------------------------------------------------------


@pytest.fixture
def record(folder: Path, capsys: pytest.CaptureFixture[str]) -> EvaluationRecord:
    return EvaluationRecord.model_validate_json(call(capsys, "eval", *ARGUMENTS).out)


def looked_at(
    capsys: pytest.CaptureFixture[str], record: EvaluationRecord, proved_N: np.ndarray, **changes: object
) -> tuple[int, str, str]:
    """Exit code of `verify`, status and detail of its look at the certificates, for a record that claims these."""
    (path,) = Path("evaluations").glob("*.json")
    claim = {"method": "crown-bab", "proved": pack_bits(proved_N), "seconds": 1.0}
    text = json.loads(record.model_dump_json()) | {"certificates": claim} | changes
    path.write_text(json.dumps(text))
    done = call(capsys, "verify", path, "./net.py:net", "--json")
    if not done.out:
        return done.code, "", done.err
    (check,) = (check for check in json.loads(done.out)["checks"] if check["name"] == "certificates")
    return done.code, check["status"], check["detail"]


def test_what_is_proved_is_proved_again(record: EvaluationRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert record.certificates is not None
    proved_N = record.certificates.proved_N(90)
    n = int(proved_N.sum())
    assert looked_at(capsys, record, proved_N) == (
        0,
        "PASS",
        f"{n} of {n} images proved robust again, against any attack",
    )
    assert looked_at(capsys, record, np.zeros(90, dtype=bool)) == (0, "PASS", "none is claimed")


def test_a_false_certificate_is_found(record: EvaluationRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert record.certificates is not None
    proved_N, robust_N = record.certificates.proved_N(90), record.samples.worst_case_N()
    (unproved, *_), n = np.flatnonzero(robust_N & ~proved_N), int(proved_N.sum())
    proved_N[unproved] = True
    code, status, detail = looked_at(capsys, record, proved_N)
    assert (code, status) == (3, "FAIL")
    assert detail.startswith(f"{n} of {n + 1} images proved robust again")


def test_a_certificate_for_a_broken_image_is_refused(
    record: EvaluationRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_N = record.samples.clean_N() & ~record.samples.worst_case_N()
    code, _, error = looked_at(capsys, record, broken_N)
    assert code == 3
    assert "proved robust that are wrong or broken" in error


def test_there_are_none_for_other_norms_and_networks(
    record: EvaluationRecord, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    robust_N = record.samples.worst_case_N()
    threat = {"norm": "L2", "eps": 0.1, "eps_text": "0.1"}
    assert looked_at(capsys, record, robust_N, threat=threat)[:2] == (3, "FAIL")
    code = (folder / "net.py").read_text().replace("return net", "return net.append(nn.Softplus())", 1)
    (folder / "net.py").write_text(code)
    status, detail = looked_at(capsys, record, robust_N)[1:]
    assert (status, detail) == ("FAIL", "the network uses Softplus")


@pytest.mark.slow
@pytest.mark.parametrize("net", SHARED_NETS)
def test_published_networks_get_the_verdicts_of_autoattack(
    published_nets: dict[str, PublishedNet], cifar10_test: Images, net: str
) -> None:
    """AutoAttack on 500 images, once with and once without certificates: it breaks nothing that is proved."""
    published, images = published_nets[net], cifar10_test.subset(torch.arange(500))
    threat, attacks = make_threat("Linf", published.eps), [make_attack("autoattack")]
    whole = evaluate(published.module, images, threat, attacks, Settings(workers=2))
    spared = evaluate(published.module, images, threat, attacks, Settings(workers=2, certificates=True))
    assert_same_verdicts(spared, whole)
    assert proved(spared) > 0.5 * whole.robust["autoattack"].sum()
