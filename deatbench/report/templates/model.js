"use strict";
(() => {
  // A cell that a spreadsheet would take for a formula gets an apostrophe in front.
  function field(text) {
    const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  function csv(table) {
    const lines = [...table.rows].map((row) => [...row.cells].map((cell) => field(cell.textContent)).join(","));
    return `${lines.join("\n")}\n`;
  }

  for (const table of document.querySelectorAll("table.data")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "text";
    button.textContent = "Save as CSV";
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
      link.download = `${table.dataset.name}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
    table.parentElement.before(button);
  }
})();
