"use strict";
(() => {
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px)");
  const paper = 660; // width in pixels of A4 paper between the margins
  const config = { responsive: true, displayModeBar: false, displaylogo: false };

  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  function merge(base, change) {
    const merged = { ...base };
    for (const [key, value] of Object.entries(change)) {
      merged[key] = isObject(value) && isObject(merged[key]) ? merge(merged[key], value) : value;
    }
    return merged;
  }

  function colored(text, night) {
    if (!night) return text;
    return Object.entries(themes.colors).reduce(
      (result, [day, other]) => result.replaceAll(`"${day}"`, `"${other}"`), text);
  }

  function draw(plot, printing) {
    const night = dark.matches && !printing;
    const small = narrow.matches && !printing;
    const figure = JSON.parse(colored(plot.nextElementSibling.textContent, night));
    let layout = { ...figure.layout, template: night ? themes.dark : themes.light };
    if (small) layout = merge(layout, { ...layout.meta.narrow, dragmode: false, margin: merge({ l: 50, r: 6 }, layout.meta.narrow.margin ?? {}) });
    if (printing) layout.width = paper;
    plot.style.minHeight = `${layout.height}px`;
    Plotly.purge(plot); // Plotly.react leaves parts of the old layout behind
    return Plotly.newPlot(plot, figure.data, layout, config);
  }

  function drawAll(printing) {
    document.querySelectorAll(".plot").forEach((plot) => draw(plot, printing));
  }

  function textFilter(query) {
    const words = query.trim().toLowerCase().split(/\s+/);
    return (row) => words.every((word) => row.search.includes(word));
  }

  function compare(column, ascending) {
    const sign = ascending ? 1 : -1;
    return (left, right) => {
      const [a, b] = [left.keys[column], right.keys[column]];
      if (a === null || b === null) return (a === null) - (b === null); // missing values last
      const order = typeof a === "number" ? (a > b) - (a < b) : a.localeCompare(b);
      return sign * order || left.position - right.position;
    };
  }

  function key(cell) {
    const value = cell.dataset.value;
    if (value === "") return null;
    if (!cell.classList.contains("num")) return value;
    return value === "inf" ? Infinity : value === "-inf" ? -Infinity : Number(value);
  }

  function read(element, position) {
    const cells = [...element.cells];
    return {
      element, position,
      keys: cells.map(key),
      search: cells.map((cell) => cell.textContent).join(" ").toLowerCase(),
    };
  }

  function startTable(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map(read);
    const headers = [...table.tHead.rows[0].cells];
    const [text, state, schedule] = ["text", "state", "schedule"].map(
      (name) => document.getElementById(`filter-${name}`));
    const count = document.getElementById("filter-count");

    function filter() {
      const matches = textFilter(text.value);
      let shown = 0;
      for (const row of rows) {
        const { dataset } = row.element;
        const keep = (!state.value || dataset.state === state.value)
          && (!schedule.value || dataset.schedule === schedule.value) && matches(row);
        row.element.hidden = !keep;
        shown += keep;
      }
      count.textContent = shown === rows.length ? `${shown} trials` : `${shown} of ${rows.length} trials`;
    }

    function sort(column) {
      const ascending = headers[column].getAttribute("aria-sort") !== "ascending";
      headers.forEach((header) => header.removeAttribute("aria-sort"));
      headers[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
      rows.sort(compare(column, ascending));
      body.append(...rows.map((row) => row.element));
    }

    headers.forEach((header, column) =>
      header.querySelector("button").addEventListener("click", () => sort(column)));
    [text, state, schedule].forEach((control) => control.addEventListener("input", filter));
    filter(); // browsers may restore the form fields after a reload
  }

  // Pages without HTTPS have no navigator.clipboard; there, the selected text is copied.
  async function copied(code) {
    try {
      await navigator.clipboard.writeText(code.textContent);
      return true;
    } catch {
      getSelection().selectAllChildren(code);
      return document.execCommand("copy");
    }
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("button.copy");
    if (!button) return;
    const snippet = button.parentElement;
    const done = await copied(snippet.querySelector("code"));
    snippet.querySelector(".copied").textContent = done ? "Copied" : "Press Ctrl+C to copy the selected text";
  });

  // service.js dispatches this event after it has inserted HTML.
  document.addEventListener("sweeper:added", (event) => {
    event.target.querySelectorAll(".plot").forEach((plot) => draw(plot, false));
  });
  drawAll(false);
  for (const query of [dark, narrow]) query.addEventListener("change", () => drawAll(false));
  addEventListener("beforeprint", () => drawAll(true));
  addEventListener("afterprint", () => drawAll(false));
  const table = document.getElementById("trials-table");
  if (table) startTable(table);
})();
