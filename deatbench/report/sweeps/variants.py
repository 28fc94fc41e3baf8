"""The report that takes an update apart: named variants side by side, each against the variant of reference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from deatbench.report.charts import BarRow, bars
from deatbench.report.deat.words import points
from deatbench.report.escape import plain
from deatbench.report.setups import method, optimizer, part, setting
from deatbench.report.standings.significance import standing_after_holm
from deatbench.report.sweeps.cells import Cell, Measure, cells_of, measures_of, seeds_of
from deatbench.report.sweeps.differences import Difference, difference, within
from deatbench.report.sweeps.document import (
    MAX_FIGURES,
    Data,
    Entry,
    Figure,
    Report,
    Section,
    Table,
    Value,
    entries,
    slugs,
)
from deatbench.report.sweeps.parts import cells_data, deciding
from deatbench.report.sweeps.reading import Swept
from deatbench.report.sweeps.words import difference_entry, mean_entry, p_words, usual_runs


@dataclass(frozen=True, eq=False)
class Group:
    """The variants at one place of all other axes, by name; `reference` is the one that others are held against."""

    title: str
    variants: Mapping[str, Cell]

    @property
    def reference(self) -> str:
        """The variant called deat, else the first that is DEAT's update, else the first."""
        called = [name for name in self.variants if name.lower() == "deat"]
        updates = [name for name, cell in self.variants.items() if part(cell.config, "optimizer").get("name") == "deat"]
        return next(iter([*called, *updates, *self.variants]))

    def tests(self, measure: Measure) -> dict[str, Difference]:
        """Every other variant against the one of reference."""
        reference = self.variants[self.reference]
        found = {
            name: difference(cell, reference, measure) for name, cell in self.variants.items() if name != self.reference
        }
        return {name: each for name, each in found.items() if each is not None}


def variant_report(sweep: Swept) -> Report:
    """Each variant against the reference, in words, bars and tables; then sets of weights within a variant."""
    cells, measures = cells_of(sweep.results, by_point=True), measures_of(sweep.results)
    groups, chosen = groups_of(cells), deciding(measures)
    sections = [_accuracies(groups, measures, chosen), *([_weights(groups)] if _other_weights(groups) else [])]
    findings = [_findings(group, measure) for group in groups for measure in chosen]
    return Report(findings=tuple(findings), sections=tuple(sections))


Compared = tuple[Group, str, Measure, Measure]  # a variant's weights in one measure against another


def groups_of(cells: Sequence[Cell]) -> list[Group]:
    """The cells by where they lie on all axes but the named one."""
    axis = named_axis(cells)
    keys = [
        key
        for key in dict.fromkeys(name for cell in cells if axis in cell.settings for name in cell.settings)
        if key != axis
    ]
    found: dict[str, dict[str, Cell]] = {}
    titles: dict[str, str] = {}
    for cell in cells:
        place = json.dumps([cell.value(key) for key in keys], sort_keys=True)
        given = cell.settings.get(axis) if axis else None
        name = plain(given, 80) if isinstance(given, str) else cell.label
        members = found.setdefault(place, {})
        members[name if name not in members else f"{name} ({len(members) + 1})"] = cell
        titles.setdefault(place, ", ".join(f"{plain(key, 40)} {setting(cell.value(key))}" for key in keys))
    networks = [next(iter(members.values())).network for members in found.values()]
    return [
        Group(", ".join(filter(None, (network, titles[place]))), members)
        for network, (place, members) in zip(networks, found.items(), strict=True)
    ]


def named_axis(cells: Sequence[Cell]) -> str | None:
    """The first axis whose values are names of bundles of settings: no key of the configuration."""
    for cell in cells:
        for key, value in cell.settings.items():
            if isinstance(value, str) and Cell({}, "", cell.runs).value(key) is None and key != "recipe":
                return key
    return None


def _findings(group: Group, measure: Measure) -> str:
    """One sentence: which variants are better and worse than the one of reference, and how many are neither."""
    tested, where = group.tests(measure), f"{group.title}, {measure.title}"
    if not tested:
        return f"{where}: there is nothing to compare."
    known = sorted((each.p_value, name) for name, each in tested.items() if each.p_value is not None)
    held = {name for _, name in known[: standing_after_holm([p_value for p_value, _ in known])]}
    said = []
    for sign, word in ((1, "better"), (-1, "worse")):
        names = sorted((name for name in tested if tested[name].settled == sign), key=lambda n: -abs(tested[n].value))
        for kept, how in ((True, ""), (False, ", but not once corrected (Holm)")):
            shown = [f"{name} ({_gain(tested[name])})" for name in names if (name in held) == kept]
            if shown:
                said.append(f"{word}{how}: {'; '.join(shown)}")
    neither = [name for name, each in tested.items() if not each.settled]
    if neither:
        said.append(f"no settled difference: {'; '.join(neither)}")
    images = " to ".join(f"{n:,}" for n in sorted({each.n for each in tested.values() if each.n})) or "no"
    tests = f"{len(known)} {'test' if len(known) == 1 else 'tests'} on the same {images} images"
    outcome = ". ".join(each[0].upper() + each[1:] for each in said)
    return f"{where}, against {group.reference}. {outcome}. From {tests}, {seeds_of([*group.variants.values()])}."


def _gain(found: Difference) -> str:
    return f"{points(found.value)} points, {p_words(found.p_value)}"


def _accuracies(groups: Sequence[Group], measures: Sequence[Measure], chosen: Sequence[Measure]) -> Section:
    names = slugs([group.title for group in groups])
    figures = [
        _bars(group, chosen, f"variants-{name}") for group, name in zip(groups[:MAX_FIGURES], names, strict=False)
    ]
    tables = [_table(group, chosen, folded=False) for group in groups]
    rest = [measure for measure in measures if measure not in chosen]
    tables += [_table(group, rest, folded=True) for group in groups if rest]
    text = (
        "Mean ± standard deviation over seeds, then the difference from the variant of reference in points with the "
        "paired test on the same test images. Bold differences are more than chance by themselves; the sentences above "
        "say which remain once corrected for their number (Holm)."
    )
    rows: list[tuple[Value, ...]] = [
        (group.title, name, group.reference, *measure, each.value, each.n, each.p_value)
        for group in groups
        for measure in measures
        for name, each in group.tests(measure).items()
    ]
    cells = [cell for group in groups for cell in group.variants.values()]
    head = ("group", "variant", "reference", "weights", "metric", "difference", "images", "p")
    return Section(
        "The variants",
        (text,),
        figures=figures,
        tables=tables,
        data=(cells_data(cells, measures, ("arch", "optimizer.lr")), Data("tests", head, rows)),
    )


def _bars(group: Group, measures: Sequence[Measure], name: str) -> Figure:
    rows = [
        BarRow(
            variant,
            tuple(cell.mean(measure) for measure in measures),
            tuple(cell.interval(measure) for measure in measures),
        )
        for variant, cell in group.variants.items()
    ]

    def draw(key: str, width: int) -> Markup:
        return bars(
            rows,
            [measure.title for measure in measures],
            key=key,
            title=f"{group.title}: the variants",
            description="Mean over seeds with its 95 % interval; the table below has the numbers.",
            width=width,
        )

    return Figure(name, group.title, draw)


def _table(group: Group, measures: Sequence[Measure], *, folded: bool) -> Table:
    tests = {measure: group.tests(measure) for measure in measures}
    usual = usual_runs(group.variants.values())
    head = ("Variant", "Update", *(name for measure in measures for name in (measure.title, "difference")))
    rows = []
    for name, cell in group.variants.items():
        row = [Entry(name, "reference" if name == group.reference else ""), Entry(_update(cell))]
        for measure in measures:
            row += [mean_entry(cell, measure, usual), difference_entry(tests[measure].get(name))]
        rows.append(tuple(row))
    return Table(f"{group.title}{': further accuracies' if folded else ''}", head, rows, frozenset({0, 1}), folded)


def _update(cell: Cell) -> str:
    made = method(cell.config)
    words = optimizer(cell.config, decay=False)
    return words if words.startswith(f"{made},") else f"{made}: {words}"


def _other_weights(groups: Sequence[Group]) -> list[Compared]:
    """Per variant the weights beside the last ones that withstood the same attack."""
    found = []
    for group in groups:
        for name, cell in group.variants.items():
            kept = measures_of(cell.runs)
            for measure in kept:
                last = Measure("last", measure.metric)
                if measure.weights in ("shifted", "ema", "swa", "best") and last in kept:
                    found.append((group, name, measure, last))
    return found


def _weights(groups: Sequence[Group]) -> Section:
    text = (
        "The same trainings, other weights: averages, DEAT's shifted point, where its next gradient would be taken, "
        "and the best epoch, each against the last weights of the same training on the same test images."
    )
    found = _other_weights(groups)
    names = ("group", "variant", "weights", "metric", "difference_from_last", "images", "p")
    rows: list[tuple[Value, ...]] = [
        (group.title, name, *measure, each.value, each.n, each.p_value)
        for group, name, measure, last in found
        if (each := within(group.variants[name], measure, last)) is not None
    ]
    several = len(groups) > 1
    tables = [
        _weights_table(words, [each for each in found if (each[2].weights == "best") == best], several, folded=best)
        for words, best in (("Kept weights against the last", False), ("Best weights against the last", True))
    ]
    return Section(
        "Other weights of the same trainings",
        (text,),
        tables=[table for table in tables if table.rows],
        data=(Data("weights", names, rows),),
    )


def _weights_table(title: str, found: Sequence[Compared], several: bool, *, folded: bool) -> Table:
    rows = []
    for group, name, measure, last in found:
        cell, usual = group.variants[name], usual_runs(group.variants.values())
        said = f"{group.title}, {name}" if several else name
        means = (mean_entry(cell, of, usual) for of in (measure, last))
        rows.append(entries(said, measure.title, *means, difference_entry(within(cell, measure, last))))
    head = ("Variant", "Accuracy", "Weights", "Last weights", "Difference")
    return Table(title, head, rows, frozenset({0, 1}), folded)
