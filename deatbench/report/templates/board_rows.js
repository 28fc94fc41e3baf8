"use strict";

// Elements: header, rows, and what a row opens to. Text goes in as text, links are our own or http(s).
const make = (() => {
  const { words, NOTHING } = board;

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === true) made.setAttribute(key, "");
      else if (value !== null && value !== false) made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  }

  function link(address, ...children) {
    const web = /^https?:\/\/[^\s\\]+$/i.test(address);
    const own = /^[\w.+=%-]+\/[\w.+=%-]+\.html$/.test(address);
    return web || own ? element("a", { href: address, rel: web ? "noopener noreferrer" : null }, ...children)
      : element("span", {}, ...children);
  }

  function accuracy(td, row, cell, column) {
    const found = board.accuracy(cell);
    const note = [found.spread, found.provisional ? "provisional" : ""].filter(Boolean).join(" ");
    td.append(element("span", { class: "value" }, found.provisional ? "≤ " : "", found.value), " ");
    if (note || column.noted) td.append(element("small", { class: "note" }, note), " ");
    const usual = column.key === "worst_case_acc" ? board.n : row.cells[board.place.worst_case_acc][3] || board.n;
    const n = found.n === usual ? "" : `n = ${found.n.toLocaleString("en")}`;
    if (column.key === "worst_case_acc" && found.bounds) {
      td.append(element("small", { class: "under" }, found.interval), strip(cell, column));
      if (n) td.append(" ", element("small", { class: "size" }, n));
    } else if (found.bounds) td.append(element("small", { class: "under" }, [found.interval, n].filter(Boolean).join(", ")));
  }

  // The interval as a stroke with a dot at the value, on one scale for the whole board.
  function strip([value, low, high], { scale: [least, most] }) {
    const stroke = element("i", { class: "strip", "aria-hidden": "true" });
    const across = (tenths) => 100 * (tenths - least) / (most - least || 1);
    stroke.style.setProperty("--low", across(low));
    stroke.style.setProperty("--high", across(high));
    stroke.style.setProperty("--mean", across(value / 1000));
    return stroke;
  }

  // Both ends of the strips' scale.
  function scale(column) {
    const ends = column.scale.map((tenths) => element("small", {}, `${Math.round(tenths / 10)}`));
    return element("span", { class: "ends", "aria-hidden": "true" }, ...ends);
  }

  function cell(row, column) {
    const value = row.cells[board.place[column.key]];
    const none = value === null || (value === 0 && column.kind !== "amount");
    if (column.kind === "name") return name(row, column);
    const td = element("td", { class: `${column.kind} ${column.key}` });
    if (none) td.append(element("span", { class: "none" }, NOTHING));
    else if (column.kind === "accuracy") accuracy(td, row, value, column);
    else {
      const text = board.text(row, column);
      td.append(element("span", { class: text === column.usual ? "value plain" : "value" }, text));
    }
    beneath(td, row, column);
    return td;
  }

  function beneath(td, row, column) {
    const parts = column.under.map((key) => [key, board.text(row, view.byKey.get(key))]).filter(([, text]) => text !== NOTHING);
    if (column.kind === "name" && row.elsewhere) parts.unshift(...source(row).map((text) => ["source", text]));
    const spans = parts.flatMap(([key, text], at) => [at ? " · " : "", element("span", { class: key }, text)]);
    if (parts.length) td.append(" ", element("small", { class: "under" }, ...spans));
  }

  // Published names are often no more than the method's: the architecture and the source tell them apart.
  const source = (row) => [board.text(row, view.byKey.get("arch")), words[row.facts[0]]];

  // A long name may be broken behind its parts.
  const breakable = (text) => text.split(/(?<=[-_.])(?=\w)/).flatMap((part, at) => (at ? [element("wbr"), part] : [part]));

  function name(row, column) {
    const button = element("button", { type: "button", class: "open", "aria-expanded": "false" },
      element("span", {}, ...breakable(row.cells[board.place.model])));
    const th = element("th", { scope: "row", class: `name ${column.key}` }, button);
    beneath(th, row, column);
    return th;
  }

  function tick(row) {
    const label = `Compare ${row.cells[board.place.model]}`;
    const box = !row.runs[0]?.[9] ? "" : element("input", { type: "checkbox", class: "tick", "aria-label": label });
    if (box) box.checked = view.state.ticked.has(row.key);
    return element("td", { class: "ticks" }, box);
  }

  function tableRow(row, columns) {
    const tr = element("tr", { class: `row s${row.section}${row.elsewhere ? " elsewhere" : ""}` });
    tr.append(tick(row), ...columns.map((column) => cell(row, column)));
    tr.row = row;
    return tr;
  }

  function head(columns) {
    const { sort, down } = view.state;
    const cells = columns.map((column) => {
      const button = element("button", { type: "button", "data-key": column.key, "aria-describedby": `help-${column.key}` },
        column.title);
      const sorted = column.key === sort ? (down ? "descending" : "ascending") : null;
      const th = element("th", { scope: "col", class: `${column.kind} ${column.key}`, "aria-sort": sorted }, button);
      if (column.key === "worst_case_acc") th.append(scale(column));
      return th;
    });
    const ticks = element("td", { class: "ticks" });
    return element("tr", {}, ticks, ...cells);
  }

  function runs(row) {
    const metrics = board.accuracies.map((column) => column.title);
    const titles = ["Run", ...metrics, "Seed", "Epoch", "Training", "Date", "Verification"];
    const body = board.runsOf(row).map((run) => element("tr", {},
      element("th", { scope: "row" }, run.page ? link(run.page, run.name) : run.name),
      ...run.accuracies.map((found) => element("td", {}, ...(found
        ? [`${found.provisional ? "≤ " : ""}${found.value} `,
          element("small", { class: "under" }, `${found.interval} · ${found.count}`)] : [NOTHING]))),
      ...[run.seed, run.epoch, run.time, run.date, run.tier].map((text) => element("td", {}, `${text ?? NOTHING}`))));
    const header = element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title)));
    return element("table", { class: "of-runs" }, element("thead", {}, header), element("tbody", {}, ...body));
  }

  // The row behind an opened one.
  function details(row, width, id) {
    const inside = element("div", {});
    if (row.runs.length) inside.append(element("div", { class: "sideways" }, runs(row)));
    for (const [title, sentence] of row.doubts) {
      inside.append(element("p", { class: row.section === 2 ? "flag" : null },
        element("b", {}, words[title]), " ", words[sentence]));
    }
    const facts = element("p", {}, row.facts.map((fact) => words[fact]).join(" · "));
    if (row.url) facts.append(" · ", link(row.url, "source"));
    inside.append(facts);
    const commands = board.runsOf(row).flatMap((run) => run.commands);
    if (commands.length) inside.append(element("pre", {}, [...new Set(commands)].join("\n")));
    return element("tr", { class: "runs", id }, element("td", { colspan: width }, inside));
  }

  return { element, link, tableRow, head, details };
})();
