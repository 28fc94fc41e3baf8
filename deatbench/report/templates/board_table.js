"use strict";

// What is in view: the state of the page, its form in the address, and the rows that follow from it.
const view = (() => {
  const { columns, rows } = board;
  const byKey = new Map(columns.map((column) => [column.key, column]));
  const filters = columns.filter((column) => column.filters);
  const narrow = matchMedia("(max-width: 40rem)");

  // On a phone the accuracies stand right behind the name.
  function usual() {
    const shown = columns.filter((column) => column.shown);
    if (narrow.matches) shown.sort((a, b) => late(a) - late(b));
    return shown.map((column) => column.key);
  }
  const late = (column) => (["rank", "model"].includes(column.key) ? 0 : column.kind === "accuracy" ? 1 : 2);

  function read() {
    const hash = new URLSearchParams(location.hash.slice(1));
    const chosen = (hash.get("cols") ?? "").split(",").filter((key) => byKey.has(key));
    return {
      sort: byKey.has(hash.get("sort")) ? hash.get("sort") : "rank",
      down: hash.get("dir") === "desc",
      query: hash.get("q") ?? "",
      filters: new Map(filters.map(({ key }) => [key, hash.get(key) ?? ""]).filter(([, value]) => value)),
      open: new Set(hash.getAll("open")),
      ticked: new Set(hash.getAll("tick")),
      columns: chosen.length ? chosen : null,
      published: ["shown", "ranked"].includes(hash.get("published")) ? hash.get("published") : "",
    };
  }

  const state = read();

  function remember() {
    const hash = new URLSearchParams();
    if (state.sort !== "rank" || state.down) {
      hash.set("sort", state.sort);
      hash.set("dir", state.down ? "desc" : "asc");
    }
    if (state.query) hash.set("q", state.query);
    for (const [key, value] of state.filters) hash.set(key, value);
    for (const key of state.open) hash.append("open", key);
    for (const key of state.ticked) hash.append("tick", key);
    if (state.columns) hash.set("cols", state.columns.join(","));
    if (state.published) hash.set("published", state.published);
    history.replaceState(null, "", hash.size ? `#${hash}` : location.pathname + location.search);
  }

  const shown = () => (state.columns ?? usual()).map((key) => byKey.get(key));

  // Missing values stand last in either direction, equal ones keep the order of the board.
  function order() {
    const sign = state.down ? -1 : 1;
    if (state.sort === "rank") {
      return (a, b) => sign * (b.standing - a.standing || a.order - b.order);
    }
    const keys = board.keys(byKey.get(state.sort));
    return (a, b) => {
      const [x, y] = [keys[a.order], keys[b.order]];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.order - b.order;
      return sign * (x - y) || a.order - b.order;
    };
  }

  function matches() {
    const terms = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = [...state.filters].map(([key, value]) => [board.place[key], board.words.indexOf(value)]);
    return (row) => wanted.every(([at, word]) => row.cells[at] === word)
      && (terms.length === 0 || terms.every((term) => board.searched(row).includes(term)));
  }

  // Rows by section, each sorted; results from elsewhere among the others only when asked for.
  function sections() {
    const kept = rows.filter(matches());
    const ranked = state.published === "ranked";
    const groups = [...board.sections, "Published elsewhere, not measured here"].map((title) => ({ title, rows: [] }));
    for (const row of kept) groups[row.elsewhere && !ranked ? board.PUBLISHED : row.section].rows.push(row);
    for (const group of groups) group.rows.sort(order());
    groups.forEach((group, section) => { group.section = section; });
    return groups.filter((group) => group.rows.length);
  }

  function sort(column) {
    state.down = state.sort === column.key ? !state.down : column.better === "higher";
    state.sort = column.key;
  }

  return { state, read, remember, shown, usual, filters, sections, sort, narrow, byKey };
})();
