"""The published figures that come with deatbench, and figures as others write them."""

from __future__ import annotations

import csv

import pytest

from deatbench.report.reference import DEAT_TABLE_2, PUBLISHED_RESULTS, reference_results
from deatbench.report.reference.percentages import percent_of, share_of


def test_every_row_is_a_result_of_its_own_with_a_source() -> None:
    results = reference_results()
    with PUBLISHED_RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(results) == len(rows) == len({result.id for result in results}) > 20
    for row, result in zip(rows, results, strict=True):
        assert (result.dataset, result.threat.norm, result.threat.eps_text) == ("cifar10", "Linf", row["eps"])
        assert result.source == row["source"] != ""
        assert result.clean_acc == (pytest.approx(float(row["clean"]) / 100) if row["clean"] else None)
        assert (result.pgd_acc is None) == (result.pgd_attack is None)
        assert result.pgd_acc is not None or result.autoattack_acc is not None


def test_another_radius_is_another_threat() -> None:
    (other,) = (result for result in reference_results() if result.threat.eps_text != "8/255")
    assert other.threat.eps_text == "0.031"
    assert other.name == "Zhang2019Theoretically"


def test_the_papers_table_is_whole() -> None:
    with DEAT_TABLE_2.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    assert all(0 < float(value) < 100 for row in rows for key, value in row.items() if key != "lr")


@pytest.mark.parametrize(
    ("text", "share"),
    [("52.48", 0.5248), ("0.0", 0.0), (" 100 ", 1.0), (93, 0.93), ("", None), ("null", None), (None, None)],
)  # fmt: skip
def test_percentages_become_shares(text: object, share: float | None) -> None:
    assert share_of(text) == share


@pytest.mark.parametrize("text", ["100.1", "-1", "nan", "5e1", "0x1", "٥٢", "52,48", "52.48%", True, [], {}, 1e300])
def test_other_things_are_no_percentage(text: object) -> None:
    with pytest.raises(ValueError, match="no percentage"):
        share_of(text)


def test_shares_become_percentages_and_back() -> None:
    assert all(share_of(percent_of(images / 10_000)) == images / 10_000 for images in range(10_001))
