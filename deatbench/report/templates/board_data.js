"use strict";

// The board's document as rows with their texts, and the keys that rows are sorted, searched and named by.
const board = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { columns, words } = data;
  const NOTHING = words[0];
  const place = Object.fromEntries(columns.map((column, at) => [column.key, at]));
  const accuracies = columns.filter((column) => column.kind === "accuracy");
  const PUBLISHED = data.sections.length; // the section of results from elsewhere while they are not ranked

  const measured = data.rows.map(([section, cells, runs, facts, doubts], order) => (
    { section, cells, runs, facts, doubts, order, standing: cells[place.worst_case_acc][0] ?? -1 }));
  const published = data.published.map(([section, standing, cells, facts, url], order) => (
    { section, cells, runs: [], facts, doubts: [], url, order: measured.length + order, standing, elsewhere: true }));
  const rows = [...measured, ...published];

  // A row is called by its name and weights, so that addresses of opened rows can be read.
  const taken = new Map();
  for (const row of rows) {
    const checkpoint = row.cells[place.checkpoint];
    const called = row.cells[place.model] + (checkpoint ? `.${words[checkpoint]}` : "");
    const times = (taken.get(called) ?? 0) + 1;
    taken.set(called, times);
    row.key = times > 1 ? `${called}.${times}` : called;
  }

  const decimal = (tenths) => `${Math.floor(tenths / 10)}.${tenths % 10}`;
  const percent = (millionths) => decimal(Math.floor((millionths + 500) / 1000));
  const share = (millionths) => (millionths / 1e6).toFixed(4).replace(/0{1,2}$/, "");

  // An accuracy in parts; `n` only where it is not the board's.
  function accuracy(cell) {
    const [value, low, high, n = 0, spread = -1, provisional = 0] = cell;
    const bounded = low !== undefined;
    return {
      value: percent(value),
      share: share(value),
      interval: bounded ? `${decimal(low)}–${decimal(high)}` : "",
      bounds: bounded ? [low / 1000, high / 1000] : null,
      n: bounded ? n || data.n : 0,
      unusual: bounded && n > 0,
      spread: spread < 0 ? "" : `±${decimal(spread)}`,
      provisional: provisional > 0,
      count: bounded ? `${Math.round(value * (n || data.n) / 1e6)}/${n || data.n}` : "",
    };
  }

  // A cell as one line.
  const writers = {
    band: ([best, worst]) => (best === worst ? `${best}` : `${best}–${worst}`),
    name: (name) => name,
    word: (word) => words[word],
    words: (list) => list.map((word) => words[word]).join("; "),
    amount: (value, column) => column.texts[value],
    accuracy: (cell) => {
      const found = accuracy(cell);
      const value = found.provisional ? `≤ ${found.value}` : found.value;
      return [value, found.spread, found.interval && `(${found.interval})`].filter(Boolean).join(" ");
    },
  };
  const empty = (cell) => cell === 0 || cell === null;
  function text(row, column) {
    const cell = row.cells[place[column.key]];
    return empty(cell) && column.kind !== "amount" || cell === null ? NOTHING : writers[column.kind](cell, column);
  }

  // Whole columns of keys, made when first asked for. Missing values are NaN.
  const collator = new Intl.Collator("en", { numeric: true });
  const readers = {
    band: (cell) => cell[0],
    accuracy: (cell) => cell[0],
    amount: (cell) => cell,
    word: (cell) => cell,
    words: (cell) => cell[0],
  };
  const made = new Map();
  function keys(column) {
    if (!made.has(column.key)) {
      const at = place[column.key];
      let values;
      if (column.kind === "name") {
        const alphabetical = [...rows].sort((a, b) => collator.compare(a.cells[at], b.cells[at]));
        values = new Float64Array(rows.length);
        alphabetical.forEach((row, position) => { values[row.order] = position; });
      } else {
        const read = readers[column.kind];
        values = Float64Array.from(rows, ({ cells }) => {
          const none = cells[at] === null || (cells[at] === 0 && column.kind !== "amount");
          return none ? NaN : read(cells[at]);
        });
      }
      made.set(column.key, values);
    }
    return made.get(column.key);
  }

  // What a search looks through: names and words, of the row and of its runs.
  let texts = null;
  function searched(row) {
    texts ??= rows.map(({ cells, runs, facts }) => [
      ...columns.flatMap(({ kind }, at) => (
        kind === "name" ? cells[at] : kind === "word" ? words[cells[at]] : kind === "words" && cells[at]
          ? cells[at].map((word) => words[word]) : [])),
      ...runs.map((run) => run[0] || ""),
      ...facts.map((fact) => words[fact]),
    ].join("\n").toLowerCase());
    return texts[row.order];
  }

  function runsOf(row) {
    return row.runs.map(([name, own, seed, epoch, time, date, tier, page, commands]) => {
      const full = name || data.prefix + row.cells[place.model];
      const filled = (word) => words[word].split("\u0001").join(full);
      return {
        name: full,
        accuracies: accuracies.map((column, at) => {
          const cell = own ? own[at] : row.cells[place[column.key]];
          return cell ? accuracy(cell) : null;
        }),
        seed, epoch,
        time: words[time], date: words[date], tier: words[tier],
        page: page ? filled(page) : null,
        commands: commands.map(filled),
      };
    });
  }

  // Done while nothing else is to do, so that the first search and sort need not wait.
  function prepare() {
    for (const column of columns) keys(column);
    if (rows.length) searched(rows[0]);
  }

  return { ...data, prepare, place, accuracies, rows, measured, published, PUBLISHED, NOTHING,
    accuracy, text, keys, searched, runsOf };
})();
