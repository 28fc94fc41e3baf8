"use strict";

(() => {
  const LETTERS = "ABCD";
  const CLEAN = "clean_acc";
  const WORST = "worst_case_acc";
  const data = JSON.parse(document.getElementById("data").textContent);
  const byKey = new Map(data.runs.map((run) => [run.key, run]));
  const [status, choice, notes, pairs, classes] = ["status", "choice", "notes", "pairs", "classes"].map((id) =>
    document.getElementById(id),
  );

  /* What is chosen lives in the address: #models=key,key. */
  function chosen() {
    const asked = new URLSearchParams(location.hash.slice(1)).get("models");
    if (asked === null) {
      const second = data.runs.find((run) => run.row !== data.runs[0].row) || data.runs[1];
      return { runs: [data.runs[0], second], unknown: 0 };
    }
    const keys = [...new Set(asked.split(",").filter(Boolean))];
    const runs = keys.filter((key) => byKey.has(key)).map((key) => byKey.get(key));
    return { runs: runs.slice(0, LETTERS.length), unknown: keys.length - runs.length };
  }

  function element(name, properties = {}, ...children) {
    const made = document.createElement(name);
    const { style = {}, attributes = {}, ...others } = properties;
    Object.assign(made, others);
    for (const [key, value] of Object.entries(style)) made.style.setProperty(key, value);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const letter = (index) => element("b", { className: "letter", style: { "--of": `var(--c${index + 1})` } }, LETTERS[index]);
  const number = (value) => value.toLocaleString("en-US");
  const signed = (text) => text.replace("-", "−");
  const percent = (share) => (100 * share).toFixed(1);
  const points = (share) => signed((Math.round(1000 * share) / 10 + 0).toFixed(1));
  const chance = (p) => {
    if (p < 0.001) return "< 0.001";
    const three = (p + 1e-12).toFixed(3);
    return three === "0.050" ? (p + 1e-12).toFixed(4) : three;
  };

  /* Verdicts: one byte per image, unpacked when first needed. */
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const unpacked = new Map();
  function verdicts(run, metric) {
    const key = `${run.key} ${metric}`;
    if (!unpacked.has(key)) {
      const packed = bytes(run.bits[metric]);
      unpacked.set(key, Uint8Array.from({ length: run.n }, (_, i) => (packed[i >> 3] >> (7 - (i & 7))) & 1));
    }
    return unpacked.get(key);
  }

  /* The images that all runs share, and where each run has them; none if they were tested on different data. */
  function common(runs) {
    if (runs.some((run) => run.images !== runs[0].images)) return { images: [], places: runs.map(() => []) };
    const at = runs.map((run) => new Map((run.indices || [...Array(run.n).keys()]).map((image, i) => [image, i])));
    const images = [...at[0].keys()].filter((image) => at.every((places) => places.has(image)));
    return { images, places: at.map((places) => images.map((image) => places.get(image))) };
  }

  function difference(metric, [a, b], [atA, atB]) {
    const [ofA, ofB] = [verdicts(a, metric), verdicts(b, metric)];
    const counts = [0, 0, 0, 0]; // neither, only B, only A, both
    atA.forEach((place, i) => counts[2 * ofA[place] + ofB[atB[i]]]++);
    const [neither, onlyB, onlyA, both] = counts;
    const n = atA.length;
    return {
      metric, n, both, onlyA, onlyB, neither,
      a: (both + onlyA) / n, b: (both + onlyB) / n, difference: (onlyA - onlyB) / n,
      interval: statistics.newcombe(both, onlyA, onlyB, neither), p: statistics.mcnemar(onlyA, onlyB),
    };
  }

  function inWords(d, a, b) {
    const [ahead, behind, more, less] = d.onlyB > d.onlyA ? [b, a, d.onlyB, d.onlyA] : [a, b, d.onlyA, d.onlyB];
    const verb = d.metric === CLEAN ? "gets right" : "withstands";
    const images = `${number(more)} image${more === 1 ? "" : "s"} only ${ahead} ${verb}, ${number(less)} only ${behind}`;
    if (more === less) return more ? `level; ${images}` : "the same on every image";
    const [low, high] = d.onlyB > d.onlyA ? [-d.interval[1], -d.interval[0]] : d.interval;
    const settled = d.p < 0.05;
    const p = chance(d.p);
    return (
      `${settled ? "" : "not settled: "}${ahead} is ${settled ? "better" : "ahead"} by ${points(Math.abs(d.difference))} ` +
      `points (95 %: ${points(low)} to ${points(high)}), p ${p.startsWith("<") ? p : `= ${p}`}; ${images}`
    );
  }

  function bar(d, a, b) {
    const parts = [["both", d.both, "var(--soft)"], [`only ${LETTERS[a]}`, d.onlyA, `var(--c${a + 1})`],
      [`only ${LETTERS[b]}`, d.onlyB, `var(--c${b + 1})`], ["neither", d.neither, "var(--line)"]];
    const label = parts.map(([name, count]) => `${name} ${number(count)}`).join(", ");
    return element("span", { className: "bar", attributes: { role: "img", "aria-label": label } },
      ...parts.map(([, count, colour]) => element("i", { style: { "flex-grow": String(count), background: colour } })));
  }

  function table(caption, heads, rows) {
    const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
    return element("div", { className: "scroll", tabIndex: 0, attributes: { role: "region", "aria-label": caption } },
      element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  }

  const cell = (text, value) => element("td", value === undefined ? {} : { attributes: { "data-v": String(value) } }, text);

  function pair(runs, a, b) {
    const [A, B] = [LETTERS[a], LETTERS[b]];
    const two = [runs[a], runs[b]];
    const title = `${A} and ${B}`;
    const { images, places } = common(two);
    const section = element("section", { className: "pair" }, element("h2", {}, letter(a), " and ", letter(b)));
    if (!images.length) {
      section.append(element("p", {}, "They were evaluated on different images: nothing to compare."));
      return section;
    }
    const metrics = data.metrics.filter(({ name }) => two.every((run) => name in run.bits));
    const differences = metrics.map(({ name, title }) => ({ title, ...difference(name, two, places) }));
    section.firstChild.append(element("small", {}, ` on the same ${number(images.length)} images`));
    for (const d of differences.filter(({ metric }) => metric === CLEAN || metric === WORST).reverse()) {
      section.append(element("p", { className: "words" }, element("b", {}, d.title), `: ${inWords(d, A, B)}.`));
    }
    const rows = differences.map((d) => element("tr", { className: d.p < 0.05 ? "settled" : "", attributes: { "data-metric": d.metric } },
      element("th", { scope: "row" }, d.title),
      cell(percent(d.a), d.a), cell(percent(d.b), d.b), cell(points(d.difference), d.difference),
      cell(`${points(d.interval[0])} to ${points(d.interval[1])}`, d.interval.join(" ")), cell(chance(d.p), d.p),
      element("td", {}, bar(d, a, b)),
      ...["both", "onlyA", "onlyB", "neither"].map((key) => cell(number(d[key]), d[key]))));
    const heads = ["Accuracy, %", A, B, `${A} − ${B}`, "95 %", "p", "Images", "both", `only ${A}`, `only ${B}`, "neither"];
    section.append(table(`Differences of ${title}`, heads, rows));
    return section;
  }

  function byClass(runs) {
    const known = data.images[runs[0].images];
    const { images, places } = common(runs);
    if (!known || !images.length) return [];
    const packed = bytes(known.labels);
    const of = known.classes.map(() => []);
    images.forEach((image, i) => image < known.n && of[packed[2 * image] + 256 * packed[2 * image + 1]].push(i));
    const made = [];
    for (const { name, title } of [...data.metrics].reverse()) {
      if (name !== CLEAN && name !== WORST) continue;
      if (!runs.every((run) => name in run.bits)) continue;
      const rows = known.classes.flatMap((label, c) => {
        if (!of[c].length) return [];
        const shares = runs.map((run, r) => of[c].reduce((sum, i) => sum + verdicts(run, name)[places[r][i]], 0) / of[c].length);
        const dots = shares.map((share, r) => element("i", { style: { left: `${100 * share}%`, background: `var(--c${r + 1})` } }));
        return element("tr", {}, element("th", { scope: "row" }, label), cell(number(of[c].length), of[c].length),
          ...shares.map((share) => cell(percent(share), share)),
          ...shares.slice(1).map((share) => cell(points(shares[0] - share), shares[0] - share)),
          element("td", {}, element("span", { className: "dots", ariaHidden: "true" }, ...dots)));
      });
      const letters = [...LETTERS].slice(0, runs.length);
      const heads = ["Class", "Images", ...letters, ...letters.slice(1).map((other) => `A − ${other}`), "0 to 100 %"];
      const section = element("section", { className: "class", attributes: { "data-metric": name } },
        element("h2", {}, `${title} by class`), table(`${title} by class`, heads, rows));
      made.push(section);
    }
    return made;
  }

  /* What makes the chosen runs less alike than they look. */
  function caveats(runs, unknown) {
    const said = unknown ? [`${unknown} of the models in the address ${unknown === 1 ? "is" : "are"} not on this page.`] : [];
    if (data.leftOut) said.push(`${number(data.leftOut)} runs at the end of the board are not on this page; deatbench compare has them.`);
    const names = (numbers) => [...new Set(numbers)].map((i) => data.attacks[i]);
    runs.forEach((a, i) => runs.slice(i + 1).forEach((b, j) => {
      const [A, B] = [LETTERS[i], LETTERS[i + 1 + j]];
      const alone = [[A, a, b], [B, b, a]]
        .map(([who, one, other]) => [who, names(one.attacks.filter((x) => !other.attacks.includes(x)))])
        .filter(([, met]) => met.length).map(([who, met]) => `${who} alone met ${met.join(", ")}`);
      if (alone.length) said.push(`The worst cases of ${A} and ${B} are of different attacks: ${alone.join(" and ")}.`);
      const theirs = names(b.settings.filter((x) => !a.settings.includes(x)));
      const unlike = names(a.settings.filter((x) => !b.settings.includes(x))).filter((name) => theirs.includes(name));
      if (unlike.length) said.push(`${A} and ${B} met other settings of ${unlike.join(", ")}.`);
    }));
    runs.forEach((run, i) => run.flags.forEach((flag) => said.push(`${LETTERS[i]} is flagged: ${flag}`)));
    if (runs.length && !data.images[runs[0].images])
      said.push("Nothing by class: the true classes of these images are in no diagnosis of this board's models.");
    return said.map((text) => element("li", {}, text));
  }

  const selects = [...LETTERS].map((name, index) => {
    const options = data.runs.map((run) => new Option(WORST in run.bits ? run.name : `${run.name}, not attacked`, run.key));
    const select = element("select", { id: `model-${name}` }, new Option(index < 2 ? "choose a model" : "–", ""), ...options);
    select.addEventListener("change", () => {
      const keys = [...new Set(selects.map(({ value }) => value).filter(Boolean))];
      history.replaceState(null, "", `#models=${keys.join(",")}`);
      show();
    });
    choice.append(element("label", { htmlFor: select.id }, letter(index), element("span", { className: "said" }, "Model ")), select);
    return select;
  });

  function show() {
    const { runs, unknown } = chosen();
    selects.forEach((select, i) => { select.value = runs[i] ? runs[i].key : ""; });
    const two = runs.flatMap((_, a) => runs.slice(a + 1).map((_, b) => [a, a + 1 + b]));
    status.textContent = runs.length < 2 ? "Choose two to four models." : `${runs.length} models`;
    notes.replaceChildren(...caveats(runs, unknown));
    pairs.replaceChildren(...two.map(([a, b]) => pair(runs, a, b)));
    classes.replaceChildren(...(runs.length < 2 ? [] : byClass(runs)));
    document.getElementById("command").textContent =
      `deatbench compare ${runs.map((run) => run.record).join(" ") || "A B"}`;
  }

  window.addEventListener("hashchange", show);
  show();
})();
