"use strict";

// The page at work: draw what is in view, a part at a time, and answer to clicks, keys and the address.
const page = (() => {
  const FIRST = 40; // rows drawn at first, more than a screen
  const STEP = 100; // rows drawn as the reader comes near the end
  const ASKED = 300; // rows drawn without being asked: figures and protocol behind them stay within reach
  const FEW = 30; // results from elsewhere that are shown without being asked for
  const PRINTED = 500;
  const { state } = view;
  const { element } = make;
  const find = (id) => document.getElementById(id);
  const table = find("board");
  const head = table.createTHead();
  let columns = [];
  let items = []; // section titles and rows in their order
  let drawn = 0;
  let body = null;

  function number(value) { return value.toLocaleString("en"); }

  function lay() {
    columns = view.shown();
    for (const column of board.accuracies) {
      column.noted ??= board.rows.some((row) => (row.cells[board.place[column.key]][4] ?? -1) >= 0);
    }
    head.replaceChildren(make.head(columns));
  }

  // A title row begins a group; long lists from elsewhere stay folded until asked for.
  function arrange() {
    items = view.sections().flatMap((section) => {
      const folded = section.section === board.PUBLISHED && section.rows.length > FEW && !state.published;
      return [{ ...section, folded, title: section.title }, ...(folded ? [] : section.rows)];
    });
    for (const row of table.querySelectorAll("tbody")) row.remove();
    drawn = 0;
    const opened = items.findLastIndex((item) => state.open.has(item.key));
    draw(Math.max(FIRST, opened + 1));
    count();
  }

  function draw(until) {
    for (; drawn < Math.min(until, items.length); drawn += 1) {
      const item = items[drawn];
      if (item.rows) begin(item);
      else {
        const tr = make.tableRow(item, columns);
        body.append(tr);
        if (state.open.has(item.key)) open(tr);
      }
    }
    const left = items.length - drawn;
    find("more").hidden = left === 0;
    find("all").textContent = `Show all ${number(items.filter((item) => !item.rows).length)} rows`;
    fit();
  }

  // In parts, so that the page answers meanwhile; another order of rows ends it.
  function drawAll() {
    const meant = items;
    requestAnimationFrame(() => {
      if (items !== meant || drawn === items.length) return;
      draw(2 * drawn); // each part lays out the whole table again
      drawAll();
    });
  }

  function begin(section) {
    body = element("tbody", {});
    const title = element("span", {}, section.title);
    const th = element("th", { scope: "rowgroup", colspan: columns.length + 1 }, title);
    if (section.folded) {
      const button = element("button", { type: "button", class: "text", "aria-expanded": "false" },
        `Show ${number(section.rows.length)} results`);
      button.addEventListener("click", () => { state.published = "shown"; update(); });
      title.append(" ", button);
    }
    body.append(element("tr", { class: `section s${section.section}` }, th));
    table.append(body);
  }

  function count() {
    const total = board.measured.length;
    const here = items.filter((item) => !item.rows && !item.elsewhere).length;
    const others = items.reduce((sum, item) => sum + (item.rows ? item.rows.filter((row) => row.elsewhere).length : 0), 0);
    const rows = `${here === total ? "" : `${number(here)} of `}${number(total)} row${total === 1 ? "" : "s"}`;
    find("count").textContent = others ? `${rows}, ${number(others)} published elsewhere` : rows;
    find("clear").hidden = !state.query && state.filters.size === 0;
  }

  // The header follows the reader unless the table has to scroll sideways.
  function fit() {
    const region = table.parentElement;
    region.classList.remove("sideways");
    region.classList.toggle("sideways", table.scrollWidth > region.clientWidth + 1);
  }

  function open(tr) {
    const button = tr.querySelector(".open");
    const id = `runs-${tr.row.order}`;
    tr.after(make.details(tr.row, columns.length + 1, id));
    button.setAttribute("aria-expanded", "true");
    button.setAttribute("aria-controls", id);
  }

  function toggle(tr) {
    const { key } = tr.row;
    if (state.open.delete(key)) {
      tr.nextElementSibling.remove();
      tr.querySelector(".open").setAttribute("aria-expanded", "false");
    } else {
      state.open.add(key);
      open(tr);
    }
    view.remember();
  }

  function compare() {
    const ticked = board.measured.filter((row) => state.ticked.has(row.key));
    const link = find("compare");
    const enough = ticked.length >= 2 && ticked.length <= 4;
    link.hidden = ticked.length === 0;
    const seeds = ticked.some((row) => row.runs.length > 1) ? " (first seeds)" : "";
    link.textContent = enough ? `Compare ${ticked.length} rows${seeds}` : `Compare: tick 2 to 4 rows (${ticked.length})`;
    if (enough) link.setAttribute("href", `${link.dataset.page}#models=${ticked.map((row) => row.runs[0][9]).join(",")}`);
    else link.removeAttribute("href");
  }

  function update() {
    arrange();
    view.remember();
  }

  // Controls

  function control() {
    find("search").value = state.query;
    for (const select of find("filters").querySelectorAll("select")) select.value = state.filters.get(select.name) ?? "";
    const merge = find("merge");
    if (merge) merge.checked = state.published === "ranked";
    for (const box of find("chooser").querySelectorAll("input")) box.checked = columns.some(({ key }) => key === box.value);
  }

  function offer() {
    for (const column of view.filters) {
      const at = board.place[column.key];
      const found = new Set(board.rows.map((row) => row.cells[at]));
      if (found.size < 2) continue;
      const options = [...found].filter(Boolean).sort((a, b) => a - b).map((word) => board.words[word]);
      const select = element("select", { name: column.key, "aria-label": column.title },
        element("option", { value: "" }, column.title), ...options.map((text) => element("option", { value: text }, text)));
      select.addEventListener("change", () => {
        if (select.value) state.filters.set(column.key, select.value);
        else state.filters.delete(column.key);
        update();
      });
      find("filters").querySelector("div").append(select);
    }
    if (board.published.length) {
      const box = element("input", { type: "checkbox", id: "merge" });
      box.addEventListener("change", () => { state.published = box.checked ? "ranked" : ""; update(); });
      find("filters").querySelector("div").append(element("label", {}, box, "Merge published results"));
    }
    find("filters").hidden = find("filters").querySelector("div").childElementCount === 0;
    find("filters").open = !view.narrow.matches;
    view.narrow.addEventListener("change", () => { find("filters").open = !view.narrow.matches; lay(); arrange(); });
  }

  function listen() {
    head.addEventListener("click", (event) => {
      const key = event.target.closest("button")?.dataset.key;
      if (!key) return;
      view.sort(view.byKey.get(key));
      for (const [at, cell] of [...head.rows[0].cells].slice(1).entries()) {
        if (columns[at].key === key) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
        else cell.removeAttribute("aria-sort");
      }
      update();
    });
    table.addEventListener("click", (event) => {
      const tr = event.target.closest("tr");
      const own = event.target.closest(".open");
      const elsewhere = event.target.closest("a, input, .runs, thead") || !tr?.row || getSelection().toString();
      if (own || !elsewhere) toggle(tr);
    });
    table.addEventListener("change", (event) => {
      const { key } = event.target.closest("tr").row;
      if (event.target.checked) state.ticked.add(key);
      else state.ticked.delete(key);
      compare();
      view.remember();
    });
    find("search").addEventListener("input", () => { state.query = find("search").value; update(); });
    find("clear").addEventListener("click", () => {
      state.query = "";
      state.filters.clear();
      update();
      control();
      find("search").focus();
    });
    find("all").addEventListener("click", drawAll);
    const near = new IntersectionObserver((seen) => {
      if (seen.at(-1).isIntersecting && drawn < ASKED) draw(drawn + STEP);
    }, { rootMargin: "600px" });
    near.observe(find("more"));
    for (const dialog of document.querySelectorAll("dialog")) {
      dialog.addEventListener("click", (event) => {
        if (event.target === dialog || event.target.closest(".close")) dialog.close();
      });
    }
    addEventListener("hashchange", () => { Object.assign(state, view.read()); lay(); arrange(); control(); compare(); });
    addEventListener("beforeprint", () => draw(PRINTED));
    addEventListener("resize", fit);
  }

  // The rows in view, drawn or not, folded ones too.
  const inView = () => items.flatMap((item) => (item.rows ? (item.folded ? item.rows : []) : [item]));

  offer();
  listen();
  lay();
  arrange();
  compare();
  (window.requestIdleCallback ?? setTimeout)(board.prepare);
  return { columns: () => columns, inView, head, lay, update, control, number };
})();
