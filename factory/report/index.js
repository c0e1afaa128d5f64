"use strict";
// Sorts the first table of the page by its headings and filters its rows by words.
(() => {
  const table = document.querySelector("#scores table");
  const body = table.querySelector("tbody");
  const rows = [...body.rows];
  const value = (row, column) => {
    const words = row.cells[column].innerText.trim();
    const number = parseFloat(words.replace(/,/g, "").replace("\u2212", "-"));
    return { words, number };
  };
  const keys = new Map(); // by column: read once
  const keysOf = (column) => {
    if (!keys.has(column)) keys.set(column, new Map(rows.map((row) => [row, value(row, column)])));
    return keys.get(column);
  };
  const headings = [...table.querySelectorAll("thead th")];
  const sort = (column, direction) => {
    const known = keysOf(column);
    const isNumber = [...known.values()].every(({ words, number }) => words === "" || !Number.isNaN(number));
    const order = [...rows].sort((a, b) => {
      const [one, other] = [known.get(a), known.get(b)];
      if ((one.words === "") !== (other.words === "")) return one.words === "" ? 1 : -1; // what is missing comes last
      return direction * (isNumber ? one.number - other.number : one.words.localeCompare(other.words, "en"));
    });
    headings.forEach((heading, number) => heading.setAttribute("aria-sort", number !== column ? "none" : direction > 0 ? "ascending" : "descending"));
    body.append(...order);
  };
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.setAttribute("type", "button");
    button.setAttribute("class", "sorter");
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(column, heading.getAttribute("aria-sort") === "descending" ? 1 : -1));
  });

  const box = document.createElement("div");
  box.setAttribute("class", "filters");
  const label = document.createElement("label");
  label.setAttribute("class", "search");
  label.append("Rows with all of these words ");
  const input = document.createElement("input");
  input.setAttribute("type", "search");
  input.setAttribute("name", "filter");
  const shown = document.createElement("p");
  shown.setAttribute("role", "status");
  shown.setAttribute("class", "dim");
  label.append(input);
  box.append(label, shown);
  table.parentElement.before(box);
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let number = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      if (!row.hidden) number++;
    }
    shown.textContent = `${number} of ${rows.length} rows`;
  };
  input.addEventListener("input", filter);
  filter();
})();
