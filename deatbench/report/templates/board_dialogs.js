"use strict";

// What opens over the page: the choice of columns, copies of the rows in view, and what a column means.
(() => {
  const { state } = view;
  const { element } = make;
  const find = (id) => document.getElementById(id);

  function choose() {
    const list = board.columns.map((column) => {
      const box = element("input", { type: "checkbox", value: column.key });
      box.addEventListener("change", () => {
        const wanted = new Set(view.shown().map(({ key }) => key));
        if (box.checked) wanted.add(column.key);
        else wanted.delete(column.key);
        const usual = view.usual();
        const chosen = [...new Set([...usual, ...board.columns.map(({ key }) => key)])].filter((key) => wanted.has(key));
        state.columns = chosen.join() === usual.join() ? null : chosen;
        page.lay();
        page.update();
      });
      return element("li", {}, element("label", {}, box, element("b", {}, column.title)),
        element("p", { id: `help-${column.key}` }, column.help));
    });
    find("list").append(...list);
    find("usual").addEventListener("click", () => { state.columns = null; page.lay(); page.update(); page.control(); });
    find("columns").addEventListener("click", () => { page.control(); find("chooser").showModal(); });
  }

  function copy() {
    const dialog = find("copier");
    const text = dialog.querySelector("textarea");
    function fill() {
      const [rows, columns] = [page.inView(), page.columns()];
      const beneath = ({ under }) => under.map((key) => view.byKey.get(key)).filter((column) => !columns.includes(column));
      const copied = columns.flatMap((column) => [column, ...beneath(column)]);
      text.value = formats[dialog.querySelector("input:checked").value](rows, copied);
      find("copied").textContent = `${page.number(rows.length)} rows in view, columns as shown`;
      text.select();
    }
    dialog.addEventListener("change", fill);
    find("copy").addEventListener("click", () => { dialog.showModal(); fill(); });
    find("take").addEventListener("click", async () => {
      text.select();
      try {
        await navigator.clipboard.writeText(text.value);
      } catch {
        document.execCommand("copy"); // pages opened from disk may have no clipboard of their own
      }
      find("copied").textContent = "Copied";
    });
  }

  // What a column means, beside its title: for the mouse after a moment, for the keyboard at once.
  function explain() {
    const { head } = page;
    const tip = find("tip");
    let waiting = 0;
    function show(button) {
      const box = button.getBoundingClientRect();
      tip.textContent = view.byKey.get(button.dataset.key).help;
      tip.hidden = false;
      const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
      tip.style.setProperty("left", `${Math.max(8, left) + scrollX}px`);
      tip.style.setProperty("top", `${box.bottom + scrollY + 4}px`);
    }
    function hide() { clearTimeout(waiting); tip.hidden = true; }
    head.addEventListener("focusin", (event) => show(event.target));
    head.addEventListener("focusout", hide);
    head.addEventListener("mouseover", (event) => {
      const button = event.target.closest("button");
      clearTimeout(waiting);
      if (button) waiting = setTimeout(() => show(button), 350);
    });
    head.addEventListener("mouseleave", (event) => { if (event.relatedTarget !== tip) hide(); });
    tip.addEventListener("mouseleave", hide);
    addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  }

  choose();
  copy();
  explain();
  page.control();
})();
