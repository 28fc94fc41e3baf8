"""A model's page: what it says of records, what it leaves out, and that nothing in a record becomes markup."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from diagnostics_factory import diagnostics, epochs
from records_factory import certified, evaluation, model_card, seeds, threat, training_info, training_record

from deatbench.records import (
    AttackResult,
    CurvePoint,
    Diagnostics,
    EpochMetrics,
    EvaluationRecord,
    Flag,
    Generalisation,
    pack_bits,
)
from deatbench.report.inputs import Inputs
from deatbench.report.model.class_figures import class_figure, confusion_figure
from deatbench.report.model.explanations import MEANINGS
from deatbench.report.model.figures import attack_figure, radius_figure, training_figure
from deatbench.report.model.overfitting import discernible, robust_overfitting
from deatbench.report.model.page import model_pages
from deatbench.report.standings.boards import boards_of

NAME = "digits-vgg16-deat-abc123-s0"
ADDRESS = f"digits/Linf-8_255/{NAME}.html"


def suite(record: EvaluationRecord) -> EvaluationRecord:
    """The record with AutoAttack's members after its own attacks."""
    after = [0.6, 0.56, 0.55, 0.55]
    members = zip(("apgd-ce", "apgd-t", "fab-t", "square"), [0.9, *after], after, strict=False)
    attacks = [attack for attack in record.attacks if attack.name != "autoattack"]
    template = record.attacks[0].model_dump()
    attacks += [
        AttackResult(**template | {"name": f"autoattack/{name}", "robust_before": before, "robust_after": left})
        for name, before, left in members
    ]
    return EvaluationRecord(**dict(record) | {"attacks": tuple(attacks)})


def both() -> list[EvaluationRecord]:
    """Evaluations of the best and the last weights of one run."""
    gap = Generalisation(
        attack="pgd-20", n=100, train_clean_acc=1, train_robust_acc=0.8, test_clean_acc=0.9, test_robust_acc=0.6
    )
    best = evaluation(NAME, training=training_info(), generalisation=gap)
    info = training_info(checkpoint="last", checkpoint_epoch=30)
    return [suite(best), evaluation(NAME, training=info, robust={"pgd-20": 0.58}, clean=0.92)]


def inputs(**changes: Any) -> Inputs:
    fields: dict[str, Any] = {
        "evaluations": tuple(both()),
        "cards": (model_card(),),
        "histories": {NAME: epochs(np.linspace(0.1, 0.7, 20), np.linspace(0.1, 0.6, 20))},
        "diagnostics": {NAME: diagnostics(NAME)},
    }
    return Inputs(**(fields | changes))


def page(given: Inputs | None = None) -> str:
    given = given or inputs()
    pages = {}
    for board in boards_of(given):
        pages |= model_pages(board, given)
    assert list(pages) == [ADDRESS]
    return pages[ADDRESS]


class Parsed(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def of(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


def headings(text: str) -> list[str]:
    return [part.partition("</h2>")[0] for part in text.split("<h2>")[1:]]


def test_a_full_page_has_every_part_and_says_what_the_records_say() -> None:
    text = page()
    assert headings(text) == [
        "Attack by attack",
        "Accuracy against ε",
        "Training",
        "By class",
        "Taken for, under attack",
        "Adversarial images",
        "Recipe",
        "Environment",
        "Commands",
        "Files",
    ]
    seen = Parsed(text).text
    for words in (
        "vgg16 (width 0.25, 924.0 k parameters), trained with deat",
        "best in the zoo 28 90.0 82.6–94.5 60.0 50.2–69.1 58.0 48.2–67.2 55.0 45.2–64.4 55.0 45.2–64.4 100 +20.0",
        "last 30 92.0 85.0–95.9 58.0 48.2–67.2 – – 58.0 48.2–67.2 100 –",
        "Each member of AutoAttack sees what the ones before it left. All together leave 55.0 % of 100 images.",
        f"deatbench reproduce model_zoo/digits/Linf-8_255/{NAME}/evaluations/",
        "deatbench run --arch vgg16 --method deat --dataset digits --seed 0",
    ):
        assert words in seen, words
    assert "deatbench diagnose" not in seen
    assert page() == text


def test_files_lie_where_the_page_says() -> None:
    records = both()
    links = [str(link["href"]) for link in Parsed(page()).of("a")]
    folder = f"../../../model_zoo/digits/Linf-8_255/{NAME}"
    assert links[:2] == ["../../index.html", "../Linf-8_255.html"]
    assert {link for link in links if link.startswith(folder)} == {
        f"{folder}/{name}"
        for name in (
            "card.json",
            "model.safetensors",
            "metrics.jsonl",
            "diagnostics.json",
            *(f"evaluations/{record.id}.json" for record in records),
        )
    }


def test_proved_images_are_counted_beside_their_record() -> None:
    best, last = both()
    seen = Parsed(page(inputs(evaluations=(certified(best, 11), last)))).text
    assert "100 images, each verdict; 11 of 100 images proved robust" in seen
    assert "proved robust" not in Parsed(page()).text


def test_what_is_missing_is_said_with_its_command() -> None:
    bare = inputs(histories={}, diagnostics={}, cards=(model_card(weights_file=None),))
    text = page(bare)
    assert headings(text) == ["Attack by attack", "Recipe", "Environment", "Commands", "Files"]
    seen = Parsed(text).text
    assert f"deatbench diagnose zoo:{NAME}" in seen
    assert f"deatbench zoo add {NAME}" in seen
    assert "model.safetensors" not in seen


def test_a_card_whose_weights_nobody_evaluated() -> None:
    others = [evaluation("foreign"), *(record for record in both() if record.training.checkpoint == "last")]
    seen = Parsed(page(inputs(evaluations=tuple(others)))).text
    assert f"deatbench eval zoo:{NAME} --autoattack" in seen
    assert "last 30 92.0" in seen
    without = Parsed(page(inputs(evaluations=(evaluation("foreign"),)))).text
    assert "The kept weights have not been evaluated" in without
    assert "deatbench reproduce" not in without


@pytest.mark.parametrize(
    "other",
    [
        diagnostics(NAME, threat=threat("4/255"), curve=()),
        diagnostics(NAME, model=diagnostics("another").model),
        diagnostics(NAME, dataset=diagnostics().dataset.model_copy(update={"name": "mnist"})),
    ],
    ids=["threat", "weights", "dataset"],
)
def test_diagnostics_of_something_else_are_not_shown(other: Diagnostics) -> None:
    text = page(inputs(diagnostics={NAME: other}))
    assert "Adversarial images" not in headings(text)
    assert "are of other weights or another threat" in text


def test_a_model_of_another_threat_has_no_page_on_this_board() -> None:
    moved = inputs(cards=(model_card(threat=threat("4/255")),))
    assert [model_pages(board, moved) for board in boards_of(moved)] == [{}]


def test_the_place_on_the_board_is_a_band() -> None:
    rivals = [record for value in (0.5, 0.53, 0.58) for record in seeds([value], method=f"m{value}")]
    seen = Parsed(page(inputs(evaluations=(*both(), *rivals)))).text
    assert "it has place 1–4: the images do not settle it further" in seen


def test_flags_and_notes_are_explained() -> None:
    card = model_card(training=training_record(flags=(Flag(code="collapse", message="Fell in epoch 3."),)))
    flagged = evaluation(NAME, training=training_info(), flags=[Flag(code="zero_gradient", message="On 9 images")])
    seen = Parsed(page(inputs(evaluations=(flagged,), cards=(card,)))).text
    assert f"zero gradient (best weights): On 9 images. {MEANINGS['zero_gradient']}" in seen
    assert "it has no place: a flag speaks against the numbers" in seen
    assert f"collapse (in training): Fell in epoch 3. {MEANINGS['collapse']}" in seen


HOSTILE = [
    "<script>window.pwned=1</script>",
    "</style><script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'onmouseover='alert(1)",
    "<svg onload=alert(1)>",
    "</title><script>alert(1)</script>",
    "<a href=javascript:alert(1)>x</a>",
    "{{ 7*7 }}{% raw %}",
    "&lt;script&gt;",
    "javascript:alert(1)",
    "//evil.example/x",
    "]]><!--",
    "\u202egnp.exe\u0000\u2028",
]


@pytest.mark.parametrize("payload", HOSTILE)
def test_a_record_cannot_bring_markup(payload: str) -> None:
    flag = Flag(code=payload, message=payload)
    config = {"method": {"name": payload, payload: payload}, payload: [payload], "deep": {"x": {payload: payload}}}
    env = training_record().env.model_copy(update={"hardware": payload, "git": payload, "packages": {payload: payload}})
    record = training_record(
        config=config, hardware=payload, env=env, flags=(flag,), command=payload, best_epoch=20,
        model=training_record().model.model_copy(update={"arch": payload, "params": {payload: payload}}),
    )  # fmt: skip
    card = model_card(training=record, model=record.model, weights_file=payload)
    attacked = evaluation(NAME, training=training_info(), robust={payload: 0.5, "pgd-20": 0.6}, flags=[flag])
    attacked = attacked.model_copy(update={"command": payload, "env": env, "created": payload})
    found = diagnostics(NAME, class_names=tuple(f"{payload}{turn}" for turn in range(10)), attack=payload, env=env)
    safe = Parsed(page())
    seen = Parsed(page(inputs(evaluations=(attacked,), cards=(card,), diagnostics={NAME: found})))
    assert {tag for tag, _ in seen.tags} <= {tag for tag, _ in safe.tags} | {"code"}
    assert sum(1 for _ in seen.of("script")) == 1
    for tag, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on")]
        address = attributes.get("href") or ""
        assert tag != "a" or address.startswith(("../", "../../../model_zoo/digits/Linf-8_255/")), address
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "49" not in [part.strip() for part in seen.parts if "7*7" in payload]


def test_a_page_of_a_small_network_is_small_and_quick() -> None:
    given = inputs(histories={NAME: epochs(np.linspace(0.1, 0.7, 30), np.linspace(0.1, 0.6, 30))})
    (board,) = boards_of(given)
    model_pages(board, given)
    started = time.perf_counter()
    (text,) = model_pages(board, given).values()
    assert time.perf_counter() - started < 0.2  # 10 ms on a quiet machine
    assert len(text.encode()) < 75_000


# -- figures


def test_attacks_follow_each_other_or_stand_alone() -> None:
    figure = attack_figure(both()[0])
    assert figure is not None
    assert [row[:3] for row in figure.rows][:3] == [
        ("pgd-20", "90.0", "60.0"),
        ("cw-20", "90.0", "58.0"),
        ("autoattack/apgd-ce", "90.0", "60.0"),
    ]
    drawn = Parsed(figure.drawing).text
    assert (
        drawn.index("APGD-CE · ")
        < drawn.index("Square · ")
        < drawn.index("Each attack alone")
        < drawn.index("CW-20 · ")
    )
    assert attack_figure(evaluation(robust={})) is None


def test_the_radius_shows_diagnosis_and_evaluation_side_by_side() -> None:
    bits = pack_bits(np.arange(100) < 40)
    curved = evaluation(NAME, curve=(CurvePoint(eps=8 / 255, eps_text="8/255", robust=bits),))
    figure = radius_figure(diagnostics(), curved)
    assert figure is not None
    assert ("PGD-20, 100 images", "2/255", "80.0", "71.1", "86.7") in figure.rows
    assert ("worst of PGD-20, CW-20, AutoAttack, 100 images", "8/255", "40.0", "30.9", "49.8") in figure.rows
    assert "ε in 1/255" in figure.drawing
    assert radius_figure(None, evaluation(NAME)) is None


def test_classes_are_counted_by_the_evaluation_of_the_same_images() -> None:
    figure = class_figure(diagnostics(), evaluation(NAME))  # the first 90 right, the first 55 withstand
    assert figure.rows[0] == ("0", "10", "9", "6")
    assert figure.rows[9] == ("9", "10", "9", "5")
    assert "the worst case of all attacks by class, on 100 images" in figure.words
    fewer = class_figure(diagnostics(n=50), evaluation(NAME))
    assert fewer.rows[0] == ("0", "5", "5", "5")


@pytest.mark.parametrize(
    "record",
    [
        None,
        evaluation(NAME, dataset="mnist"),
        evaluation(NAME).model_copy(
            update={"samples": evaluation(NAME).samples.model_copy(update={"indices": tuple(range(100, 200))})}
        ),
    ],
    ids=["none", "other data", "other images"],
)
def test_classes_are_counted_by_the_diagnosis_otherwise(record: EvaluationRecord | None) -> None:
    figure = class_figure(diagnostics(), record)
    assert figure.rows[0] == ("0", "10", "9", "6")
    assert figure.rows[5] == ("5", "10", "9", "6")
    assert "PGD-20 by class" in figure.words


def test_of_many_classes_the_weakest_are_drawn() -> None:
    names = tuple(f"class {number}" for number in range(100))
    figure = class_figure(diagnostics(n=1000, class_names=names), None)
    assert len(figure.rows) == 100
    assert "the 30 least robust of 100 classes" in figure.words
    drawing = confusion_figure(diagnostics(n=1000, class_names=names)).drawing
    assert len(drawing) < 60_000


def test_confusions_are_counted_without_the_right_ones() -> None:
    figure = confusion_figure(diagnostics())
    assert figure.rows[0] == ("0", "1", "4")
    assert sum(int(count) for _, _, count in figure.rows) == 40
    assert "most often 0 as 1 (4)" in figure.words


def rising_and_falling(fall: float, n: int = 40) -> tuple[EpochMetrics, ...]:
    turn = n // 2
    validation = [*np.linspace(0.1, 0.5, turn), *np.linspace(0.5, 0.5 - fall, n - turn)]
    return epochs(np.linspace(0.1, 0.9, n), validation)


def test_robust_overfitting_is_seen_where_it_begins() -> None:
    found = robust_overfitting(rising_and_falling(0.2), n_val=1000)
    assert found is not None
    assert 19 <= found.epoch <= 21
    assert found.fall == pytest.approx(0.2, abs=0.03)
    assert found.rise == pytest.approx(0.4, abs=0.05)
    assert f"overfitting from {found.epoch}" in training_figure(card_with(1000), rising_and_falling(0.2)).drawing


@pytest.mark.parametrize(
    ("history", "n_val"),
    [
        (rising_and_falling(0.0), 1000),
        (rising_and_falling(0.02), 1000),  # within chance
        (rising_and_falling(0.2), 50),  # too few images
        (epochs([0.5] * 40, [*np.linspace(0.1, 0.5, 20), *np.linspace(0.5, 0.3, 20)]), 1000),  # training does not rise
        (rising_and_falling(0.2)[:5], 1000),
        (epochs(np.linspace(0, 1, 30), [None] * 30), 0),
    ],
    ids=["level", "chance", "few images", "no rise", "few epochs", "no validation"],
)
def test_no_overfitting_where_it_cannot_be_told(history: tuple[EpochMetrics, ...], n_val: int) -> None:
    assert robust_overfitting(history, n_val) is None
    figure = training_figure(card_with(n_val), history)
    assert "overfitting from" not in figure.drawing
    assert len(figure.rows) == len(history)


def card_with(n_val: int) -> Any:
    return model_card(training=training_record(n_val=n_val))


def test_chance_is_that_of_two_binomial_shares() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.binomial(1000, 0.4, (2, 20_000)) / 1000
    assert np.mean(np.abs(a - b) > discernible(0.4, 1000)) == pytest.approx(0.05, abs=0.006)
    assert all(0.001 < discernible(share, 1000) < 0.005 for share in (0.0, 1.0))  # there too one image more is chance


def test_fgsm_is_drawn_where_it_parted_from_pgd() -> None:
    history = tuple(
        epoch.model_copy(update={"val_fgsm_acc": 0.9})
        for epoch in epochs(np.linspace(0, 1, 10), np.linspace(0, 0.5, 10))
    )
    flag = Flag(code="catastrophic_overfitting", message="In epoch 7.")
    fallen = model_card(training=training_record(flags=(flag,)))
    assert "same, FGSM" in training_figure(fallen, history).drawing
    assert "same, FGSM" not in training_figure(model_card(), history).drawing
