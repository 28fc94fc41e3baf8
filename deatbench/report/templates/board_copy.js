"use strict";

// The rows in view as text for other places, each format with its own way of making text harmless.
const formats = (() => {
  const { NOTHING } = board;
  const of = (row, column) => row.cells[board.place[column.key]];
  const none = (value, column) => value === null || (value === 0 && column.kind !== "amount");

  const entities = { "<": "&lt;", ">": "&gt;", "|": "&#124;" };
  function markdown(text) {
    const meant = /[\\`*{}[\]<>#|~!$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=\/\/|[\w+-]+:)|(?<=www)\./gi;
    return text.replace(/&/g, "&amp;").replace(meant, (found) => entities[found] ?? `\\${found}`).replace(/@/g, "@<!-- -->");
  }

  const commands = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "—": "---",
    "±": "$\\pm$", "≤": "$\\leq$", "∞": "$\\infty$", "ε": "$\\varepsilon$", "…": "\\ldots{}", "×": "$\\times$" };
  const latex = (text) => text.replace(/[\\~^–—±≤∞ε…×{}$&#_%]/g, (found) => commands[found] ?? `\\${found}`);

  // A spreadsheet runs a cell that begins with = + - @: an apostrophe makes it text.
  function csv(value) {
    const text = `${value ?? ""}`;
    const harmless = typeof value === "string" && /^\s*[=+\-@|%]|^\s/.test(text) ? `'${text}` : text;
    return /[",\n\r;']/.test(harmless) ? `"${harmless.replace(/"/g, '""')}"` : harmless;
  }

  // Parts of a cell as [name, value]: accuracies with their bounds, ranks with both ends.
  function fields(row, column) {
    const value = of(row, column);
    const missing = none(value, column);
    if (column.kind === "band") return [["rank_best", missing ? null : value[0]], ["rank_worst", missing ? null : value[1]]];
    if (column.kind !== "accuracy") {
      return [[column.key, missing ? null : column.kind === "amount" ? value : board.text(row, column)]];
    }
    const found = missing ? null : board.accuracy(value);
    return [
      [column.key, found && Number(found.share)],
      [`${column.key}_low`, found?.bounds?.[0] ?? null],
      [`${column.key}_high`, found?.bounds?.[1] ?? null],
      [`${column.key}_n`, found?.n || null],
    ];
  }

  function asMarkdown(rows, columns) {
    const line = (cells) => `| ${cells.join(" | ")} |`;
    const right = (column) => ["band", "accuracy", "amount"].includes(column.kind);
    return [
      line(columns.map((column) => markdown(column.title))),
      `|${columns.map((column) => (right(column) ? "--:|" : "---|")).join("")}`,
      ...rows.map((row) => line(columns.map((column) => markdown(board.text(row, column))))),
    ].join("\n");
  }

  function asLatex(rows, columns) {
    const right = (column) => ["band", "accuracy", "amount"].includes(column.kind);
    const line = (cells) => `  ${cells.join(" & ")} \\\\`;
    return [
      "% needs \\usepackage{booktabs}",
      `\\begin{tabular}{${columns.map((column) => (right(column) ? "r" : "l")).join("")}}`,
      "  \\toprule",
      line(columns.map((column) => latex(column.title))),
      "  \\midrule",
      ...rows.map((row) => line(columns.map((column) => latex(board.text(row, column))))),
      "  \\bottomrule",
      "\\end{tabular}",
    ].join("\n");
  }

  function asCsv(rows, columns) {
    const table = rows.map((row) => columns.flatMap((column) => fields(row, column)));
    const names = columns.flatMap((column) => fields(board.rows[0], column).map(([name]) => name));
    return [names, ...table.map((line) => line.map(([, value]) => value))].map((line) => line.map(csv).join(",")).join("\n");
  }

  function asJson(rows, columns) {
    const lines = rows.map((row) => JSON.stringify(Object.fromEntries(columns.flatMap((column) => fields(row, column)))));
    return `[\n${lines.join(",\n")}\n]`;
  }

  function asBibtex(rows) {
    const seen = new Map();
    return rows.map((row) => {
      const name = row.cells[board.place.model];
      const base = `deatbench:${row.key.replace(/[^A-Za-z0-9_-]+/g, "-").replace(/^-+|-+$/g, "")}`;
      const times = (seen.get(base) ?? 0) + 1;
      seen.set(base, times);
      const date = board.text(row, view.byKey.get("date"));
      const found = board.accuracies.filter((column) => column.shown && of(row, column));
      const numbers = found.map((column) => `${column.title} ${board.text(row, column)} %`);
      const source = row.elsewhere ? row.facts.map((fact) => board.words[fact]) : [];
      return [
        `@misc{${base}${times > 1 ? `-${times}` : ""},`,
        `  title = {{${latex(name)}}},`,
        `  howpublished = {${latex(row.elsewhere ? source[0] : `deatbench leaderboard, ${board.board}`)}},`,
        ...(row.url ? [`  url = {${row.url.replace(/[{}%\\]/g, encodeURIComponent)}},`] : []),
        ...(date === NOTHING ? [] : [`  year = {${latex(date.slice(0, 4))}},`]),
        `  note = {${latex(numbers.join(", "))}},`,
        "}",
      ].join("\n");
    }).join("\n\n");
  }

  return { Markdown: asMarkdown, LaTeX: asLatex, CSV: asCsv, JSON: asJson, BibTeX: asBibtex };
})();
