"""Times to robust accuracy follow from the epochs' records; machines never meet; nothing hostile comes through."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_trainings import PLAIN_SGD, Made, inputs, made
from markdown_it import MarkdownIt

from deatbench.records import Flag, Metric
from deatbench.report.inputs import Inputs
from deatbench.report.rendering import MARK
from deatbench.report.standings.boards import boards_of
from deatbench.report.time.page import time_pages
from deatbench.report.time.races import Race, races_of, targets_of

HOSTILE = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7*7 }}",
    "a|b `c` *d* [f](https://evil.example) <b>h</b>",
    "../../../etc/passwd",
    "\u202egnp.exe\x00",
]


def races(given: Inputs) -> list[Race]:
    return races_of(given, [run for board in boards_of(given) for run in board.runs])


def test_time_is_the_sum_of_epochs_up_to_the_first_that_reaches_the_target() -> None:
    (race,) = races(inputs(made(accuracies=(0.12, 0.31, 0.29, 0.52), seconds=90.0)))
    arrival = race.entries[0].arrival(30)
    assert (arrival.mean, arrival.epochs, arrival.complete) == (180.0, (2,), True)
    assert race.entries[0].arrival(50).mean == 360.0
    assert race.entries[0].arrival(55).seconds == ()


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=12),
    st.lists(st.floats(0.1, 1e4), min_size=12, max_size=12),
    st.integers(1, 100),
)
def test_arrival_agrees_with_a_walk_over_the_epochs(accuracies: list[int], times: list[float], target: int) -> None:
    training = made(accuracies=[a / 100 for a in accuracies])
    epochs = tuple(e.model_copy(update={"seconds": t}) for e, t in zip(training.epochs, times, strict=False))
    (race,) = races(inputs(replace(training, epochs=epochs)))
    passed = [turn for turn, accuracy in enumerate(accuracies) if accuracy >= target]
    arrival = race.entries[0].arrival(target)
    assert len(arrival.seconds) == (1 if passed else 0)
    if passed:
        assert arrival.mean == pytest.approx(sum(times[: passed[0] + 1]))


def test_seeds_are_one_row_with_their_mean_and_how_many_reached() -> None:
    three = [
        made(seed=seed, accuracies=(0.2, top), seconds=60.0 * (seed + 1)) for seed, top in enumerate((0.5, 0.6, 0.3))
    ]
    (race,) = races(inputs(*three))
    (entry,) = race.entries
    arrival = entry.arrival(50)
    assert (len(entry.runs), arrival.seconds, arrival.mean, arrival.complete) == (3, (120.0, 240.0), 180.0, False)
    page = time_pages(inputs(*three))["time.html"]
    assert "2 of 3 seeds" in page
    assert "not reached" not in page


def test_rows_where_all_seeds_arrive_stand_before_those_where_some_do() -> None:
    lucky = [made("pgd-at", seed=0, accuracies=(0.6, 0.6)), made("pgd-at", seed=1, accuracies=(0.2, 0.2))]
    slow = [made("deat", seed=seed, accuracies=(0.2, 0.6), seconds=600.0) for seed in (0, 1)]
    never = [made("trades", seed=0, accuracies=(0.2, 0.2))]
    (race,) = races(inputs(*lucky, *slow, *never))
    assert race.deciding == 35  # the lowest shown: at none do most of the three arrive with every seed
    assert [entry.method for entry in race.entries] == ["deat", "pgd-at", "trades"]


def test_deciding_target_is_the_highest_that_most_reach() -> None:
    (race,) = races(inputs(*(made(m, accuracies=(0.2, top)) for m, top in (("a", 0.62), ("b", 0.51), ("c", 0.35)))))
    assert race.targets == (35, 40, 45, 50, 55, 60)
    assert race.deciding == 50


def test_hardware_is_never_mixed() -> None:
    fast, slow = made(hardware="GPU"), made("pgd-at", hardware="CPU")
    found = races(inputs(fast, slow))
    assert [(race.hardware, len(race.entries)) for race in found] == [("CPU", 1), ("GPU", 1)]
    assert time_pages(inputs(fast, slow))["time.html"].count("there is nothing to compare it with") == 2


@pytest.mark.parametrize(
    ("best", "classes", "expected"),
    [
        (0.82, 10, (55, 60, 65, 70, 75, 80)),
        (0.318, 10, (15, 20, 25, 30)),
        (0.14, 10, (12, 14)),
        (0.111, 10, (11,)),
        (0.05, 10, ()),
        (1.0, 2, (75, 80, 85, 90, 95, 100)),
    ],
)
def test_targets_are_round_above_chance_and_few(best: float, classes: int, expected: tuple[int, ...]) -> None:
    assert targets_of(best, classes) == expected


def test_never_above_chance_is_said_and_not_a_failure() -> None:
    page = time_pages(inputs(made("standard", accuracies=(0.0, 0.01)), made("pgd-at", accuracies=(0.02, 0.03))))
    assert "No configuration reaches" in page["time.html"]
    page = time_pages(inputs(made("standard", accuracies=(0.0, 0.01)), made("pgd-at", accuracies=(0.02, 0.3))))
    assert page["time.html"].count("not reached") == len((15, 20, 25, 30))


def test_configurations_that_differ_in_the_optimizer_are_two_rows() -> None:
    (race,) = races(inputs(made("pgd-at"), made("pgd-at", PLAIN_SGD)))
    assert {entry.update for entry in race.entries} == {"sgd, lr 0.1, momentum 0.9", "sgd, lr 0.5, momentum 0"}


def test_autoattack_is_that_of_the_published_weights() -> None:
    weak = np.arange(100) < 20
    last = made(checkpoint="last", verdicts={"pgd-20": weak, "autoattack": weak})
    (race,) = races(inputs(made(), last))
    autoattack = race.entries[0].autoattack
    assert autoattack is not None
    assert autoattack.mean == Metric.of(np.arange(100) < 45).value


def test_trainings_without_epochs_are_counted_not_dropped_silently() -> None:
    given = inputs(made(), made("pgd-at"))
    kept = {key: value for key, value in given.histories.items() if key == given.cards[0].id}
    assert "1 of 2 trainings" in time_pages(replace(given, histories=kept))["time.html"]
    unvalidated = made("pgd-at", accuracies=(None, None))
    assert "1 of 2 trainings" in time_pages(inputs(made(), unvalidated))["time.md"]


def test_flags_are_words_in_the_row() -> None:
    flagged = made(flags=[Flag(code="catastrophic_overfitting", message="FGSM 90 %, PGD 0 %.")])
    pages = time_pages(inputs(flagged))
    assert "catastrophic overfitting" in pages["time.html"]
    assert "catastrophic overfitting" in pages["time.md"]


def test_protocol_says_what_the_accuracy_and_the_time_are() -> None:
    for kind in ("html", "md"):
        page = time_pages(inputs(made()))[f"time.{kind}"]
        assert "It is no AutoAttack" in page
        assert "whatever else ran on the machine is in it" in page.replace("\n", " ")


def test_no_records_make_a_page_that_says_how_to_begin() -> None:
    pages = time_pages(Inputs())
    assert set(pages) == {"time.html", "time.md"}
    assert "deatbench run" in pages["time.html"]
    assert "deatbench run" in pages["time.md"]


def some() -> list[Made]:
    return [
        *(made(seed=seed, accuracies=(0.2, 0.5 + seed / 20)) for seed in (0, 1, 2)),
        made("pgd-at", accuracies=(0.3, 0.6)),
        made("pgd-at", arch="senet18"),
        made("trades", hardware="GPU", dataset="cifar10"),
    ]


def test_pages_do_not_depend_on_the_order_of_records() -> None:
    expected = time_pages(inputs(*some()))
    shuffled = some()
    random.Random(1).shuffle(shuffled)
    assert time_pages(inputs(*shuffled)) == expected


def test_every_page_and_figure_carries_the_mark_and_the_figures_are_linked() -> None:
    pages = time_pages(inputs(*some()))
    assert all(MARK in text[:1000] for text in pages.values())
    figures = re.findall(r"\]\((time-[^)]*\.svg)\)", pages["time.md"])
    assert sorted(figures) == sorted(name for name in pages if name.endswith(".svg"))
    assert len(figures) == 3


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    flag = Flag(code=text, message=text)
    settings = {"method": {"name": text}, "attack": {"steps": text, "rel_step": text}}
    hostile = made(
        text, {"name": text, "lr": text, text: text}, arch=text, hardware=text, flags=[flag], settings=settings
    )
    for name, page in time_pages(inputs(hostile, made(text, hardware=text))).items():
        assert not re.search(r"[\\/]|\.\.", name)
        if name.endswith(".md"):
            page = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
            assert not re.search(r'(href|src)="(?!index|time-|\.\./model_zoo/)', page)
        assert not re.search(r"<(script|img src=x|svg onload|b>h)", page)
        assert 'evil.example"' not in page
        assert 'href="javascript' not in page
