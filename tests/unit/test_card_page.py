"""Cards for people: the hub's form, our exact numbers, and nothing hostile comes through YAML or Markdown."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from records_factory import ENV, certified, evaluation, model_card, sha, threat, training_info, training_record

from deatbench.errors import ConfigError
from deatbench.records import (
    CheckResult,
    EvaluationRecord,
    Flag,
    ModelCard,
    Outcome,
    RepeatedMetric,
    Reproduction,
    Verification,
)
from deatbench.report.inputs import Inputs
from deatbench.report.model.card import card_pages
from deatbench.report.rendering import MARK

HOSTILE = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b `c` *d* _e_ [f](https://evil.example) ![g](x) <b>h</b> https://evil.example www.evil.example me@evil.example",
    "| - | - |\n|---|---|\n# heading",
    "x\n---\nlicense: evil\n---\n# taken over",
    "--- \n...\n- !!python/object/apply:os.system [id]",
    "!!python/object/apply:os.system [id]",
    "&anchor *anchor {a: b} % @ `",
    "{{ 7*7 }}{% raw %}",
    "\u202egnp.exe\x00\x1b[31m\u2028x",
    "``` ~~~ $x$ :smile: \\",
    "'\"\\\t: #",
]


def parts(page: str) -> tuple[dict[str, Any], str]:
    """The front matter as data, and the Markdown behind it."""
    assert page.startswith("---\n")
    front, _, body = page.removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(front), body


def shape(body: str) -> list[tuple[str, str]]:
    """Everything but text: block and inline tokens with their link targets."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)
    flat = [child for token in tokens for child in (token.children or [token])]
    marks = [t for t in flat if t.type not in ("text", "text_special") and t.content != "<!-- -->"]
    return [(t.type, str(t.attrs.get("href", ""))) for t in marks]


def page_of(card: ModelCard, evaluations: list[EvaluationRecord], **more: Any) -> str:
    ((path, page),) = card_pages(Inputs(evaluations=tuple(evaluations), cards=(card,), **more)).items()
    assert path == f"{card.dataset}/{card.threat.slug}/{card.id}/README.md"
    return page


def both() -> list[EvaluationRecord]:
    """The best and the last weights of seed 0."""
    best, last = training_info(), training_info(checkpoint="last")
    return [
        evaluation(last.run_id, training=last, robust={"pgd-20": 0.61}, id=f"{last.run_id}-last-1"),
        evaluation(best.run_id, training=best, id=f"{best.run_id}-best-1"),
    ]


def test_front_matter_carries_our_exact_numbers() -> None:
    card, records = model_card(), both()
    front, body = parts(page_of(card, records))
    assert front["license"] == "mit"
    assert front["metrics"] == ["accuracy"]
    assert front["datasets"] == ["digits"]
    assert {"deat", "vgg16", "adversarial-robustness"} <= set(front["tags"])
    (indexed,) = front["model-index"]
    assert indexed["name"] == card.id
    shown = [metric for result in indexed["results"] for metric in result["metrics"]]
    expected = [record.metrics[name] for record in reversed(records) for name in record.metrics]
    assert sorted(m["value"] for m in shown) == sorted(m.value for m in expected)
    assert all(tuple(m["args"]["ci95"]) and m["args"]["n"] == 100 for m in shown)
    assert front["model-index"][0]["results"][0]["metrics"][0]["name"] == "Clean accuracy, best weights"
    assert MARK in body


def test_the_table_names_weights_attack_interval_and_n() -> None:
    body = parts(page_of(model_card(), both()))[1]
    rows = [line for line in body.splitlines() if line.startswith(("| best", "| last"))]
    assert [row.split(" | ")[0] for row in rows] == ["| best"] * 5 + ["| last"] * 3
    assert "| best | Linf 8/255 | AutoAttack | 55.0 | 45.2–64.4 | 100 | [best-1](evaluations/" in body
    assert 'load_model("zoo:digits-vgg16-deat-abc123-s0")' in body
    assert "    deatbench reproduce zoo:digits-vgg16-deat-abc123-s0\n" in body
    assert "not a security guarantee" in body
    assert "self-reported" in body
    assert "None was raised" in body
    links = {href for kind, href in shape(body) if kind == "link_open"}
    assert "card.json" in links
    assert "../../../../leaderboards/digits/Linf-8_255/digits-vgg16-deat-abc123-s0.html" in links
    assert not any(href.startswith(("http", "/")) for href in links)


def test_a_model_that_nobody_attacked_yet() -> None:
    front, body = parts(page_of(model_card(), []))
    assert front["model-index"][0]["results"] == []
    assert "Nobody has attacked it yet" in body
    assert "leaderboards" not in body


def test_proved_images_are_counted() -> None:
    body = parts(page_of(model_card(), [certified(both()[1], 11)]))[1]
    assert "11 of 100 images proved robust, on which no later attack was tried" in body
    assert "proved robust" not in parts(page_of(model_card(), both()))[1]


def test_evaluations_of_other_runs_stay_away() -> None:
    other = training_info(1)
    body = parts(page_of(model_card(), [*both(), evaluation(other.run_id, training=other, id="other-seed")]))[1]
    assert "other-seed" not in body


def test_second_looks_and_flags_in_words() -> None:
    last, best = both()
    flagged = best.model_copy(update={"flags": (Flag(code="zero_gradient", message="3 images have none."),)})
    card = model_card(training=training_record(flags=(Flag(code="collapse", message="It fell to chance."),)))
    checks = (CheckResult(name="archive", status="PASS", detail="x"),)
    failed = (*checks, CheckResult(name="misclassified", status="FAIL", detail="y"))
    look = {"record_sha256": sha("x"), "created": "2026-11-23T00:00:00Z", "env": ENV}
    proven = Verification(record=best.id, checks=checks, **look)
    metric = RepeatedMetric(recorded=0.5, repeated=0.5, p_value=1.0)
    again = Reproduction(
        record=best.id, outcome=Outcome.MATCH, metrics={"clean_acc": metric}, retrained=True, same_weights=True,
        seconds=1.0, command="deatbench reproduce", **look,
    )  # fmt: skip
    verifications = {best.id: proven, last.id: Verification(record=last.id, checks=failed, **look)}
    page = page_of(card, [last, flagged], verifications=verifications, reproductions={best.id: again})
    assert "best-1: proof verified on 2026-11-23" in page
    assert "best-1: re-run on 2026-11-23, the same weights: match." in page
    assert "last-1: looked at again on 2026-11-23, not proven: misclassified FAIL." in page
    assert "- **zero gradient.** 3 images have none." in page
    assert "- **collapse.** It fell to chance." in page
    assert "self-reported" not in page


def hostile(text: str) -> str:
    """A page in which every free text of card and evaluation is `text`."""
    info = training_info(method=text, recipe=text, hardware=text, optimizer=text, digest=text)
    config = {
        "method": {"name": text, text: text}, "optimizer": {"name": text}, "schedule": text, "attack": {text: text},
        "epochs": text, "batch_size": text, "augment": text, "seed": text,
    }  # fmt: skip
    flags = (Flag(code=text, message=text),)
    env = ENV.model_copy(update={"torch": text, "python": text, "git": text})
    spec = model_card().model.model_copy(update={"arch": text, "params": {text: text}})
    training = training_record(
        config=config, hardware=text, dataset_source=text, created=text, command=text, flags=flags, env=env, model=spec
    )
    record = evaluation(text, training=info, robust={text: 0.5}, flags=flags, command=text, id="record-1")
    attack = record.attacks[0].model_copy(update={"params": {text: text}, "engine": text})
    look = {"record": "record-1", "record_sha256": sha("x"), "created": text, "env": ENV}
    verification = Verification(checks=(CheckResult(name=text, status="FAIL", detail=text),), **look)
    return page_of(
        model_card(training=training, model=spec),
        [record.model_copy(update={"attacks": (attack,)})],
        verifications={"record-1": verification},
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    pages = [hostile("harmless"), hostile(text)]
    (harmless_front, harmless), (front, body) = (parts(page) for page in pages)
    assert front.keys() == harmless_front.keys()
    assert front["license"] == "mit"
    assert len(front["tags"]) == len(harmless_front["tags"])
    assert shape(body) == shape(harmless)
    assert pages[1].count("\n") == pages[0].count("\n")
    assert not re.search(r"https?://|www\.", re.sub(r"`+.*?`+", "", body))


def test_a_card_cannot_lead_out_of_the_zoo() -> None:
    for dataset in ("../..", "a/b", "", ".hidden"):
        with pytest.raises(ConfigError, match="plain name"):
            card_pages(Inputs(cards=(model_card(dataset=dataset),)))


def test_same_records_same_bytes() -> None:
    records = both()
    card = model_card(threat=threat("8/255"))
    assert page_of(card, records) == page_of(card, records[::-1])
