
"use strict";
(() => {
  const table = document.querySelector("#board");
  if (!table) return;
  const heads = [...table.tHead.rows[0].cells];
  const search = document.querySelector("#search");
  const count = document.querySelector("#count");
  const sections = [];
  for (const body of table.tBodies) {
    if (body.classList.contains("section")) sections.push({ head: body, entries: [] });
    else sections.at(-1).entries.push({ body, place: sections.at(-1).entries.length, text: body.textContent.toLowerCase() });
  }
  const total = sections.reduce((sum, section) => sum + section.entries.length, 0);
  const words = new Intl.Collator("en", { numeric: true });

  // The hash holds the state, so that the address of a sorted, searched page can be passed on.
  function state() {
    const hash = new URLSearchParams(location.hash.slice(1));
    const key = heads.some((head) => head.dataset.key === hash.get("sort")) ? hash.get("sort") : "rank";
    return { key, descending: hash.get("dir") === "desc", query: hash.get("q") ?? "" };
  }

  function remember({ key, descending, query }) {
    const hash = new URLSearchParams();
    if (key !== "rank" || descending) { hash.set("sort", key); hash.set("dir", descending ? "desc" : "asc"); }
    if (query) hash.set("q", query);
    history.replaceState(null, "", hash.size ? `#${hash}` : location.pathname + location.search);
  }

  function value(entry, column) {
    const cell = entry.body.rows[0].cells[column];
    const text = cell.dataset.v ?? cell.textContent;
    if (text === "–" || text === "") return null;
    return heads[column].classList.contains("text") ? text : parseFloat(text);
  }

  // Missing values stand last in either direction; equal ones keep the order of the board.
  function sort({ key, descending }) {
    const column = heads.findIndex((head) => head.dataset.key === key);
    const sign = descending ? -1 : 1;
    for (const section of sections) {
      const keys = new Map(section.entries.map((entry) => [entry, value(entry, column)]));
      section.entries.sort((a, b) => {
        const [x, y] = [keys.get(a), keys.get(b)];
        if (x === null || y === null) return (x === null) - (y === null) || a.place - b.place;
        return sign * (typeof x === "string" ? words.compare(x, y) : x - y) || a.place - b.place;
      });
      table.append(section.head, ...section.entries.map((entry) => entry.body));
    }
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  }

  function filter({ query }) {
    const terms = query.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const section of sections) {
      let here = 0;
      for (const { body, text } of section.entries) {
        body.hidden = !terms.every((term) => text.includes(term));
        here += !body.hidden;
      }
      section.head.hidden = here === 0;
      shown += here;
    }
    count.textContent = `${shown === total ? "" : `${shown} of `}${total} row${total === 1 ? "" : "s"}`;
  }

  for (const head of heads) {
    head.firstElementChild.addEventListener("click", () => {
      const now = state();
      const again = head.hasAttribute("aria-sort");
      const descending = again ? !now.descending : head.dataset.better === "higher";
      const next = { ...now, key: head.dataset.key, descending };
      sort(next);
      remember(next);
    });
  }
  search.addEventListener("input", () => {
    const next = { ...state(), query: search.value };
    filter(next);
    remember(next);
  });
  function show() {
    const now = state();
    search.value = now.query;
    sort(now);
    filter(now);
  }
  window.addEventListener("hashchange", show);
  if (location.hash) show();
})();
