"""`deatbench verify`: an honest record passes, and every lie about it is named with exit code 3."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from cli_runs import TINY, call, files
from records_factory import evaluation, sha
from small_nets import write_factories
from torch import Tensor, nn

from deatbench.cli.main import main
from deatbench.data import Dataset
from deatbench.data.images import TensorImages
from deatbench.evidence import AdversarialImages, Archive, with_evidence, write_evaluation
from deatbench.pipeline.checks import Status
from deatbench.pipeline.examination import Examiner
from deatbench.pipeline.proof import proved
from deatbench.records import EvaluationRecord, Verification, metrics_of, pack_bits
from deatbench.store import read_record, write_record
from deatbench.threats import make_threat

N, EPS = 120, 0.2
MODEL = "./net.py:net"


@pytest.fixture(scope="module")
def evaluated(
    robust_net: nn.Module, standard_net: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EvaluationRecord]:
    """A folder with two networks, and the record and archive of an evaluation of the robust one."""
    home = tmp_path_factory.mktemp("evaluated")
    write_factories(home, robust_net, standard_net)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["eval", MODEL, "--dataset", "digits", "--eps", str(EPS), "--n", str(N), "--save-adversarials",
                     "--attacks", "pgd-10,apgd-ce", "--out", "out"]) == 0  # fmt: skip
    (home / "loaded").unlink()
    return home, read_record(next(home.glob("out/*.json")), EvaluationRecord)


@pytest.fixture
def home(evaluated: tuple[Path, EvaluationRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, and the current one."""
    copy = tmp_path / "home"
    shutil.copytree(evaluated[0], copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def record(evaluated: tuple[Path, EvaluationRecord]) -> EvaluationRecord:
    return evaluated[1]


@pytest.fixture
def failed(home: Path, record: EvaluationRecord, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """failed(model=MODEL): the names of the checks that fail; exit code 3 and the error line say the same."""

    def failed(model: str = MODEL) -> list[str]:
        before = files(home)
        done = call(capsys, "verify", f"out/{record.id}.json", model, "--json")
        names = [check["name"] for check in json.loads(done.out)["checks"] if check["status"] == "FAIL"]
        assert done.code == (3 if names else 0), done.err
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == bool(names)
        assert all(f"{name}: " in errors[0] for name in names)
        assert {path.name for path in files(home) - before if "__pycache__" not in path.parts} <= {"loaded"}
        return names

    return failed


def changed(record: EvaluationRecord, **changes: Any) -> EvaluationRecord:
    """The record with some fields changed, as valid as it was."""
    return EvaluationRecord.model_validate(record.model_dump() | changes)


def with_verdicts(
    record: EvaluationRecord, clean_N: np.ndarray | None = None, **robust: np.ndarray
) -> EvaluationRecord:
    """The record with other verdicts, and metrics that follow from them."""
    samples = record.samples
    clean_N = samples.clean_N() if clean_N is None else clean_N
    verdicts = {name: robust.get(name.replace("-", "_"), samples.robust_N(name)) for name in samples.robust}
    packed = {"clean": pack_bits(clean_N), "robust": {name: pack_bits(bits) for name, bits in verdicts.items()}}
    metrics = {name: metric.model_dump() for name, metric in metrics_of(clean_N, verdicts).items()}
    return changed(record, samples=samples.model_dump() | packed, metrics=metrics)


Change = Callable[[np.ndarray, np.ndarray], np.ndarray | None]


def rewrite(folder: Path, record: EvaluationRecord, images: TensorImages, change: Change) -> None:
    """Pack the archive anew with `change(x_adv, x)` made to pgd-10's first image (None drops it); all hashes fit."""
    book = AdversarialImages()
    for part in Archive(folder / f"{record.id}.adv").sections():
        x_NCHW, _ = next(iter(images.batches([torch.from_numpy(part.indices_M)], torch.device("cpu"))))
        x_adv, kept = part.images(x_NCHW.numpy()), np.ones(len(part), dtype=bool)
        if part.attack == "pgd-10":
            new = change(x_adv[0].copy(), x_NCHW[0].numpy())
            kept[0] = new is not None
            x_adv[0] = x_adv[0] if new is None else new
        book.add(part.attack, part.indices_M[kept], x_adv[kept], x_NCHW.numpy()[kept])
    write_evaluation(folder, *with_evidence(record, book))


# -- honest records ----------------------------------------------------------------------------------------------------


def test_an_honest_record_passes(home: Path, record: EvaluationRecord, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "verify", f"out/{record.id}.json", MODEL, "--sample", "10")
    assert done.code == 0, done.err
    rows = {line.split("  ")[0]: line for line in done.out.splitlines()[1:]}
    assert list(rows) == [
        "record", "model", "data set", "clean verdicts", "archive", "stored = broken", "inside the ball",
        "inside [0, 1]", "misclassified", "robust sample",
    ]  # fmt: skip
    assert all(" PASS " in row for row in rows.values())
    broken = {name: int((record.samples.clean_N() & ~record.samples.robust_N(name)).sum()) for name in
              record.samples.robust}  # fmt: skip
    assert min(broken.values()) > 0
    assert f"pgd-10 {broken['pgd-10']}, apgd-ce {broken['apgd-ce']}" in rows["stored = broken"]
    assert f"{sum(broken.values())} of {sum(broken.values())} images misclassified" in rows["misclassified"]
    assert f"{N} of {N}" in rows["clean verdicts"]


def test_batches_change_nothing(home: Path, record: EvaluationRecord, capsys: pytest.CaptureFixture[str]) -> None:
    done = [call(capsys, "verify", f"out/{record.id}.json", MODEL, "--json", "--batch-size", size) for size in "17"]
    assert done[0].out == done[1].out
    assert done[0].code == 0


def test_a_foreign_weight_file_needs_no_arch(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record says which architecture it was."""
    evaluate = ("eval", "--attacks", "fgsm", "--n", "20", "--out", "out2", "--save-adversarials", "--json")
    run = call(capsys, "train", *TINY)
    assert run.code == 0, run.err
    weights = safetensors.torch.load_file(next(home.glob("runs/*/best.safetensors")))
    torch.save(weights, home / "mine.pt")
    arch = ("--arch", "resnet8", "--set", "arch.width=0.25", "--dataset", "digits", "--eps", "0.2")
    record = json.loads(call(capsys, *evaluate, "mine.pt", *arch).out)
    assert call(capsys, "verify", f"out2/{record['id']}.json", "mine.pt").code == 0


def test_the_model_is_found_beside_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run's folder and in the zoo, also from elsewhere; the zoo has only the best weights of a run."""
    made, elsewhere = tmp_path / "made", tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert call(capsys, "run", *TINY, "--home", made).code == 0
    monkeypatch.chdir(elsewhere)
    records = {
        "runs": sorted(made.glob("runs/*/evaluations/*.json")),
        "zoo": sorted(made.glob("model_zoo/**/evaluations/*.json")),
    }
    assert [len(found) for found in records.values()] == [2, 2]
    for path in (*records["runs"], *(path for path in records["zoo"] if "-best-" in path.name)):
        done = call(capsys, "verify", path)
        assert done.code == 0, done.err
        assert "NOT PROVEN" in done.out
        assert "--save-adversarials" in done.out
    run_id = records["runs"][0].parents[1].name
    copied = elsewhere / "copied.json"
    shutil.copy(records["runs"][0], copied)
    assert call(capsys, "verify", copied).code == 4
    assert call(capsys, "verify", copied, "--home", made).code == 0
    shutil.rmtree(made / "runs")
    for path in records["zoo"]:
        done = call(capsys, "verify", path)
        assert (done.code, "-last-" in path.name) in ((0, False), (4, True)), done.err
    assert call(capsys, "verify", copied, f"zoo:{run_id}", "--home", made).code == 0
    assert not files(elsewhere) - {copied}


def test_images_that_are_too_near_to_tell(digits: Dataset) -> None:
    """The machine that made the record may have rounded the other way; but few images are so near."""

    class Near(nn.Module):
        gap, infinite = 1e-6, False

        def forward(self, x_NCHW: Tensor) -> Tensor:
            logits_NK = torch.zeros(len(x_NCHW), 10)
            first = x_NCHW.flatten(1).sum(1) == 0  # the black image: class 0, but only just
            logits_NK[:, 1] = 1.0
            logits_NK[:, 0] = 1 - self.gap if not first.any() else torch.where(first, 1 - self.gap, 0.0)
            return logits_NK / 0 if self.infinite else logits_NK

    def checked(black: int, **of_net: Any) -> Any:
        pixels = torch.full((100, 1, 8, 8), 9, dtype=torch.uint8)
        pixels[:black] = 0
        images = TensorImages(pixels, (torch.arange(100) >= black).long())
        net = Near()
        vars(net).update(of_net)
        examiner = Examiner(net, images, make_threat("Linf", "0.1"), torch.device("cpu"), 100, lambda images: None)
        return examiner.clean(np.ones(100, dtype=bool))

    one, far, many = checked(1), checked(1, gap=1e-4), checked(3)
    assert (one.status, one.wrong, one.borderline) == (Status.PASS, 0, 1)
    assert "1 differ but are too near to tell" in one.detail
    assert (far.status, far.wrong, far.borderline) == (Status.FAIL, 1, 0)
    assert (many.status, many.borderline) == (Status.FAIL, 3)
    assert checked(1, infinite=True).wrong > 0


def test_a_suite_that_was_interrupted_is_proved_as_of_its_provisional_point(digits: Dataset) -> None:
    record = evaluation(n=20, clean=1.0, robust={"autoattack-provisional": 0.5})
    x_NCHW, _ = next(iter(digits.test.batches([torch.arange(20)], torch.device("cpu"))))
    kept = {"autoattack": (np.array([19, 12, 3, 10]), x_NCHW.numpy()[[19, 12, 3, 10]])}
    made, _ = proved(record, kept, digits.test)  # image 3 fell later
    assert made.adversarials is not None
    assert made.adversarials.images == {"autoattack-provisional": 3}


# -- attested ----------------------------------------------------------------------------------------------------------


def attested(home: Path, record: EvaluationRecord) -> Verification:
    return read_record(home / "verifications" / f"{record.id}.json", Verification)


def test_attest_writes_what_was_found_and_nothing_else(
    home: Path, record: EvaluationRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    before, path = files(home), home / "out" / f"{record.id}.json"
    done = call(capsys, "verify", path, MODEL, "--attest", "--json")
    assert done.code == 0, done.err
    found = attested(home, record)
    assert {p.name for p in files(home) - before if "__pycache__" not in p.parts} == {f"{record.id}.json", "loaded"}
    assert found.proven
    assert (found.record, found.record_sha256) == (record.id, hashlib.sha256(path.read_bytes()).hexdigest())
    said = [(check["name"], check["status"], check["detail"]) for check in json.loads(done.out)["checks"]]
    assert [(check.name, check.status, check.detail) for check in found.checks] == said
    assert str(home) not in found.model_dump_json()


@pytest.mark.parametrize(
    ("damage", "code", "status"),
    [
        (lambda archive: archive.write_bytes(archive.read_bytes()[:-9]), 3, "FAIL"),
        (lambda archive: archive.unlink(), 4, "MISSING"),
    ],
)
def test_what_failed_is_attested_as_failed(
    damage: Callable[[Path], None], code: int, status: str, home: Path, record: EvaluationRecord,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    damage(home / "out" / f"{record.id}.adv")
    assert call(capsys, "verify", f"out/{record.id}.json", MODEL, "--attest").code == code
    found = attested(home, record)
    assert not found.proven
    assert status in {check.status for check in found.checks}
    assert str(home) not in found.model_dump_json()


def test_a_truncated_archive_of_the_named_hash_is_attested_without_machine_paths(
    home: Path, record: EvaluationRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = home / "out" / f"{record.id}.adv"
    archive.write_bytes(archive.read_bytes()[:-9])
    named = record.adversarials.model_dump() | {"sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}  # type: ignore[union-attr]
    path = write_evaluation(home / "out", changed(record, adversarials=named))
    assert call(capsys, "verify", path, MODEL, "--attest").code == 3
    found = attested(home, record)
    assert "its header describes" in found.model_dump_json()
    assert str(home) not in found.model_dump_json()


def test_nothing_stored_proves_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--dataset", "digits", "--eps", "0.2", "--n", "20", "--attacks", "fgsm", "--out", "bare/evaluations")
    assert call(capsys, "eval", MODEL, *arguments).code == 0
    (path,) = (home / "bare" / "evaluations").glob("*.json")
    assert call(capsys, "verify", path, MODEL, "--attest").code == 0
    (beside,) = (home / "bare" / "verifications").glob("*.json")
    found = read_record(beside, Verification)
    assert not found.proven
    assert "NOT PROVEN" in {check.status for check in found.checks}


# -- lies --------------------------------------------------------------------------------------------------------------


def test_flipped_verdicts(home: Path, record: EvaluationRecord, failed) -> None:  # type: ignore[no-untyped-def]
    path, samples = home / "out" / f"{record.id}.json", record.samples
    clean_N, pgd_N = samples.clean_N(), samples.robust_N("pgd-10")

    def flipped(bits_N: np.ndarray, where_N: np.ndarray) -> np.ndarray:
        bits_N = bits_N.copy()
        bits_N[np.flatnonzero(where_N)[0]] ^= True
        return bits_N

    assert failed() == []
    write_record(path, with_verdicts(record, pgd_10=flipped(pgd_N, clean_N & ~pgd_N)))
    assert failed() == ["stored = broken"]
    write_record(path, with_verdicts(record, pgd_10=flipped(pgd_N, pgd_N)))
    assert failed() == ["stored = broken"]
    write_record(path, with_verdicts(record, clean_N=flipped(clean_N, ~clean_N)))
    assert failed() == ["clean verdicts", "stored = broken"]
    write_record(path, with_verdicts(record, pgd_10=flipped(pgd_N, ~clean_N)))
    assert failed() == ["record"]


def test_a_curve_that_contradicts_the_verdicts(home: Path, record: EvaluationRecord, failed) -> None:  # type: ignore[no-untyped-def]
    worst_N = np.logical_and(record.samples.robust_N("pgd-10"), record.samples.robust_N("apgd-ce"))
    point = {"eps": EPS, "eps_text": str(EPS), "robust": pack_bits(worst_N)}
    path = home / "out" / f"{record.id}.json"
    write_record(path, changed(record, curve=[point]))
    assert failed() == []
    write_record(path, changed(record, curve=[point | {"robust": pack_bits(record.samples.clean_N())}]))
    assert failed() == ["record"]


def moved(by: float) -> Change:
    """A black pixel of the image moved to eps + by."""

    def change(x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
        place = tuple(np.argwhere(x == 0)[0])
        x_adv[place] = np.float32(EPS + by)
        return x_adv

    return change


def bright_at(value: float) -> Change:
    """The brightest pixel of the image set to `value`."""

    def change(x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
        x_adv[tuple(np.argwhere(x == x.max())[0])] = np.float32(value)
        return x_adv

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x_adv, x: x_adv, set()),
        (moved(5e-7), set()),
        (moved(2e-6), {"inside the ball"}),
        (bright_at(1.0001), {"inside [0, 1]"}),
        (bright_at(float("nan")), {"inside the ball", "inside [0, 1]"}),
        (bright_at(float("inf")), {"inside the ball", "inside [0, 1]"}),
        (lambda x_adv, x: x, {"misclassified"}),
        (lambda x_adv, x: None, {"stored = broken"}),
    ],
    ids=["same", "within the tolerance", "outside the ball", "too bright", "NaN", "infinite", "correct", "dropped"],
)
def test_images_that_prove_nothing(
    change: Change, expected: set[str], home: Path, record: EvaluationRecord, digits: Dataset, failed: Any
) -> None:
    rewrite(home / "out", record, digits.test, change)  # type: ignore[arg-type]
    assert expected <= set(failed()) <= expected | ({"misclassified"} if expected else set())


def test_images_of_images_that_were_not_broken(
    home: Path, record: EvaluationRecord, digits: Dataset, failed: Any
) -> None:
    """A hundred adversarial images of one robust one do not help, nor does an attack that the record does not know."""
    write_evaluation(home / "out", *with_evidence(record, AdversarialImages()))
    assert failed() == ["stored = broken"]
    x_NCHW, _ = next(iter(digits.test.batches([torch.arange(N)], torch.device("cpu"))))
    book = AdversarialImages()
    book.add("fgsm", np.arange(3), x_NCHW.numpy()[:3], x_NCHW.numpy()[:3])
    write_evaluation(home / "out", *with_evidence(record, book))
    assert failed() == ["archive"]
    made, _ = with_evidence(record, book)
    named = made.adversarials.model_copy(update={"images": {"fgsm": 3}})  # type: ignore[union-attr]
    write_record(home / "out" / f"{record.id}.json", made.model_copy(update={"adversarials": named}))
    assert failed() == ["archive"]


def test_damaged_archives(home: Path, record: EvaluationRecord, failed) -> None:  # type: ignore[no-untyped-def]
    """Also where the record was made to fit the damage."""
    path = home / "out" / f"{record.id}.adv"
    whole = path.read_bytes()
    middle = len(whole) // 2
    damages = {
        "cut": whole[:-100], "cut short": whole[:20], "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) +
        whole[middle + 1 :], "longer": whole + b"\0", "empty": b"", "pickle": b"cos\nsystem\n(S'touch proof2'\ntR.",
    }  # fmt: skip
    for name, data in damages.items():
        path.write_bytes(data)
        assert failed() == ["archive"], name
    for name, data in damages.items():
        path.write_bytes(data)
        named = record.adversarials.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})  # type: ignore[union-attr]
        write_record(home / "out" / f"{record.id}.json", record.model_copy(update={"adversarials": named}))
        assert "archive" in failed(), name
    assert not (home / "proof2").exists()


def test_another_evaluation_s_archive(home: Path, record: EvaluationRecord, failed) -> None:  # type: ignore[no-untyped-def]
    path = home / "out" / f"{record.id}.json"
    write_record(path, changed(record, threat={"norm": "Linf", "eps": 0.3, "eps_text": "0.3"}))
    assert failed() == ["archive"]
    write_record(path, changed(record, id="another"))
    assert failed() == ["archive"]


def test_weights_are_not_the_whole_network(
    home: Path, record: EvaluationRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code that was changed since may be another function, whatever its clean verdicts."""
    path = home / "out" / f"{record.id}.json"
    with (home / "net.py").open("a") as code:
        code.write("\n# changed\n")
    done = call(capsys, "verify", path, MODEL)
    assert done.code == 0
    (line,) = (line for line in done.out.splitlines() if "source files" in line)
    assert "NOT PROVEN" in line


def test_another_model_and_another_data_set(home: Path, record: EvaluationRecord, failed) -> None:  # type: ignore[no-untyped-def]
    assert failed("./net.py:weak") == ["model"]
    weights = home / "robust.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-4] ^= 1  # the last bit of one weight, too little to change a verdict
    weights.write_bytes(damaged)
    assert failed() == ["model"]
    damaged[-4] ^= 1
    weights.write_bytes(damaged)
    assert failed() == []
    path, dataset = home / "out" / f"{record.id}.json", record.dataset.model_dump()
    for changes in ({"sha256": sha("other images")}, {"split": "train"}):
        write_record(path, changed(record, dataset=dataset | changes))
        assert failed() == ["data set"]
    write_record(path, changed(record, samples=record.samples.model_dump() | {"indices": tuple(range(300, 300 + N))}))
    assert failed() == ["data set"]


def test_false_claims_of_robustness(home: Path, record: EvaluationRecord, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever calls a weak network robust stores nothing to be caught by: only an attack finds out.

    The attack is one whose verdicts hardly depend on its seed: the sample's nobody can choose.
    """
    for model, code in (("weak", 3), ("net", 0)):
        done = call(capsys, "eval", f"./net.py:{model}", "--dataset", "digits", "--eps", EPS, "--n", N, "--attacks",
                    "apgd-ce", "--out", model, "--json")  # fmt: skip
        honest = EvaluationRecord.model_validate_json(done.out)
        claim = honest.samples.clean_N() if model == "weak" else honest.samples.robust_N("apgd-ce")
        lie, archive = with_evidence(with_verdicts(honest, apgd_ce=claim), AdversarialImages())
        path = write_evaluation(home / model, lie if model == "weak" else honest, archive)
        assert call(capsys, "verify", path, f"./net.py:{model}").code == 0
        caught = call(capsys, "verify", path, f"./net.py:{model}", "--sample", "40")
        assert caught.code == code, caught.out
        assert "apgd-ce with seed" in caught.out


# -- what is missing or not meant --------------------------------------------------------------------------------------


def test_a_missing_archive(home: Path, record: EvaluationRecord, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "out" / f"{record.id}.adv").unlink()
    done = call(capsys, "verify", f"out/{record.id}.json", MODEL)
    assert done.code == 4
    assert "MISSING" in done.out
    assert f"{record.id}.adv does not lie beside the record" in done.err.splitlines()[-1]


def test_a_stranger_s_record_runs_no_code(
    home: Path, record: EvaluationRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its source names a file right here, which would be run if it were believed."""
    assert record.model.source == "net.py:net"
    done = call(capsys, "verify", f"out/{record.id}.json")
    assert done.code == 4
    assert "name it behind the record: RECORD MODEL" in done.err
    assert not (home / "loaded").exists()


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (lambda text: text.replace('"value": 0.', '"value": 0.0', 1), 3, "do not follow from the verdict bits"),
        (lambda text: text.replace('"norm": "Linf"', '"norm": "L0"'), 2, "norm"),
        (lambda text: text.replace('"name": "digits"', '"name": "digitz"'), 2, "did you mean digits"),
        (lambda text: text.replace('.adv"', '/../x.adv"'), 2, "adversarials.file"),
        (lambda text: text[:100], 2, "not valid JSON"),
        (lambda text: "[]", 2, "EvaluationRecord"),
    ],
)
def test_records_that_are_none(
    damage: Callable[[str], str], code: int, words: str, home: Path, record: EvaluationRecord,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = home / "out" / f"{record.id}.json"
    path.write_text(damage(path.read_text()))
    done = call(capsys, "verify", path, MODEL)
    assert (done.code, done.out) == (code, ""), done.err
    assert words in done.err.splitlines()[-1]
    assert len(done.err.splitlines()) == 1


def test_files_that_are_not_there(home: Path, record: EvaluationRecord, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("none.json", MODEL), ("out", MODEL), (f"out/{record.id}.json", "./none.py:net")):
        done = call(capsys, "verify", *arguments)
        assert (done.code, done.out) == (4, ""), done.err
