"""Records: bits survive the trip, numbers follow from bits, intervals are Wilson's, radii are what was written."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from records_factory import evaluation, training_record
from scipy.stats import binomtest

from deatbench.errors import ConfigError
from deatbench.records import (
    EvaluationRecord,
    Metric,
    ModelCard,
    Record,
    Samples,
    Threat,
    TrainingRecord,
    digest_of,
    metrics_of,
    pack_bits,
    parse_eps,
    unpack_bits,
    wilson_interval,
)

verdicts = st.lists(st.booleans(), min_size=1, max_size=300).map(lambda bits: np.array(bits, dtype=bool))


# -- bits


@given(verdicts)
def test_bits_survive_the_trip(bits: np.ndarray) -> None:
    assert np.array_equal(unpack_bits(pack_bits(bits), len(bits)), bits)


@given(verdicts, st.integers(0, 2000))
def test_bits_of_another_length_are_refused(bits: np.ndarray, n: int) -> None:
    if (n + 7) // 8 == (len(bits) + 7) // 8:
        return
    with pytest.raises(ValueError, match="verdicts"):
        unpack_bits(pack_bits(bits), n)


@pytest.mark.parametrize("text", ["!!!!", "A", "AA=A", "Ä"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - binascii's own words
        unpack_bits(text, 8)


def test_bits_are_packed_from_the_top() -> None:
    """The format is public: bit 7 of byte 0 is the first image."""
    assert pack_bits(np.array([True] + [False] * 8 + [True])) == "gEA="


# -- metrics


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_are_wilsons(counts: tuple[int, int]) -> None:
    k, n = counts
    reference = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(k, n) == pytest.approx((reference.low, reference.high), abs=1e-6)


@given(verdicts)
def test_a_metric_is_the_share_of_its_verdicts(bits: np.ndarray) -> None:
    metric = Metric.of(bits)
    assert metric.n == len(bits)
    assert metric.value == bits.mean()
    assert metric.ci95[0] <= metric.value + 1e-6
    assert metric.ci95[1] >= metric.value - 1e-6


def test_the_worst_case_is_per_image() -> None:
    clean = np.array([1, 1, 1, 0], dtype=bool)
    found = metrics_of(clean, {"a": np.array([1, 0, 1, 0], dtype=bool), "b": np.array([0, 1, 1, 0], dtype=bool)})
    assert found["a"].value == found["b"].value == 0.5
    assert found["worst_case_acc"].value == 0.25  # a minimum of averages would say 0.5
    assert "worst_case_acc" not in metrics_of(clean, {})


def test_a_record_makes_the_round_trip() -> None:
    record = evaluation()
    assert EvaluationRecord.model_validate_json(record.model_dump_json(), strict=True) == record
    training = training_record()
    assert TrainingRecord.model_validate_json(training.model_dump_json(), strict=True) == training


@pytest.mark.parametrize("metric", ["clean_acc", "pgd-20", "autoattack", "worst_case_acc"])
def test_metrics_must_follow_from_the_bits(metric: str) -> None:
    data = json.loads(evaluation().model_dump_json())
    data["metrics"][metric]["value"] += 0.01
    with pytest.raises(ValidationError, match=f"metrics {metric} do not follow from the verdict bits"):
        EvaluationRecord.model_validate(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["metrics"].pop("pgd-20"),
        lambda data: data["metrics"].update(extra=data["metrics"]["clean_acc"]),
        lambda data: data["samples"]["robust"].pop("pgd-20"),
        lambda data: data["samples"].update(clean="AAAA"),
        lambda data: data["samples"].update(n=10**15),
        lambda data: data["samples"].update(clean="????"),
        lambda data: data["metrics"]["clean_acc"].update(ci95=[0, 1]),
        lambda data: data.update(surprise=1),
        lambda data: data.update(schema_version=2),
        lambda data: data.update(id="../../etc/passwd"),
        lambda data: data.update(id=""),
        lambda data: data["model"].update(sha256="abc"),
        lambda data: data["threat"].update(eps=0.031),
        lambda data: data["threat"].update(norm="L7"),
        lambda data: data.update(seconds=math.inf),
        lambda data: data.update(seconds=math.nan),
        lambda data: data["attacks"][0].update(robust_after=1.2),
        lambda data: data["attacks"][0].update(forward_passes=-1),
    ],
)
def test_a_record_that_contradicts_itself_does_not_load(change: Any) -> None:
    data = json.loads(evaluation().model_dump_json())
    change(data)
    with pytest.raises(ValidationError):
        EvaluationRecord.model_validate(data)


def test_samples_speak_of_as_many_images_as_the_dataset_part() -> None:
    data = json.loads(evaluation(n=100).model_dump_json())
    data["dataset"]["n"] = 10_000  # a hundred verdicts dressed up as the whole test set
    with pytest.raises(ValidationError, match="verdicts"):
        EvaluationRecord.model_validate(data)


def test_listed_indices_are_as_many_as_the_images() -> None:
    bits = pack_bits(np.ones(3, dtype=bool))
    assert Samples(n=3, indices=(5, 9, 1), clean=bits, robust={}).clean_N().tolist() == [True] * 3
    for indices in ((1, 2), (1, 1, 2), (-1, 0, 1)):
        with pytest.raises(ValidationError, match="indices"):
            Samples(n=3, indices=indices, clean=bits, robust={})


def test_verdicts_of_a_metric_are_those_that_it_was_counted_from() -> None:
    record = evaluation(n=100)
    shares = {name: record.samples.verdicts_N(name).mean() for name in record.metrics}
    assert {"clean_acc", "worst_case_acc"} < shares.keys()
    assert shares == pytest.approx({name: metric.value for name, metric in record.metrics.items()})


def all_records() -> list[type[Record]]:
    found, queue = [], [Record]
    while queue:
        kinds = queue.pop().__subclasses__()
        found += kinds
        queue += kinds
    return found


@pytest.mark.parametrize("kind", all_records(), ids=lambda kind: kind.__name__)
def test_records_are_frozen_and_closed(kind: type[Record]) -> None:
    assert kind.model_config["frozen"] is True
    assert kind.model_config["extra"] == "forbid"
    assert kind.model_config["allow_inf_nan"] is False
    assert kind.__doc__


def test_a_frozen_record_stays_as_it_is() -> None:
    record = evaluation()
    with pytest.raises(ValidationError, match="frozen"):
        record.seconds = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("kind", [EvaluationRecord, TrainingRecord, ModelCard])
def test_top_level_records_carry_their_version(kind: type[Record]) -> None:
    assert kind.model_fields["schema_version"].default == 1


# -- radii


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.031", 0.031), ("1e-3", 1e-3), ("1", 1.0), ("0.5/2", 0.25)],
)
def test_radii_that_mean_something(text: str, value: float) -> None:
    assert parse_eps(text) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "/", "8/", "/255", "8/0", "0/255", "abc", "-8/255", "8/-255", "nan", "inf", "1/inf", "8/255/2", "8:255",
     "1e999", "0", "-0", "8//255", "1,5"],
)  # fmt: skip
def test_radii_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_eps(text)
    assert repr(text) in str(refusal.value)


@given(st.text(max_size=12))
def test_any_text_is_a_positive_number_or_one_clear_error(text: str) -> None:
    try:
        value = parse_eps(text)
    except ConfigError:
        return
    assert math.isfinite(value)
    assert value > 0


def test_nearly_8_255_is_another_threat() -> None:
    assert Threat(norm="Linf", eps=8 / 255, eps_text="8/255").slug == "Linf-8_255"
    assert Threat(norm="Linf", eps=0.031, eps_text="0.031").slug == "Linf-0.031"
    with pytest.raises(ValidationError, match="is not eps"):
        Threat(norm="Linf", eps=0.031, eps_text="8/255")


# -- digests


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(value.items())))
    assert digest_of(value) != digest_of({**value, "one more": 1})
    assert len(digest_of(value)) == 12


def test_a_digest_of_what_is_no_json_is_an_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest_of({"a": math.nan})
