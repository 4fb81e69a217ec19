"use strict";
// Tables sort by their column headings, the best of a column first; what has no number stays last.
for (const table of document.querySelectorAll("table.grid")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const original = [...body.rows];
  heads.forEach((head, column) => {
    if (original.length < 2) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const cells = new Map(original.map((row) => [row, row.cells[column]]));
      const isNumeric = original.some((row) => cells.get(row).hasAttribute("data-value"));
      const first = isNumeric && head.dataset.best !== "low" ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => parseFloat(cells.get(row).dataset.value ?? "NaN");
      const text = (row) => cells.get(row).textContent.trim();
      const compare = (one, other) => {
        if (!isNumeric) return sign * text(one).localeCompare(text(other), "en", { numeric: true });
        const [a, b] = [value(one), value(other)];
        if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
        return sign * (a - b);
      };
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      body.append(...[...original].sort(compare));
      for (const row of original) row.classList.remove("rule");
    });
  });
}
// A picture opens in its own size.
const dialog = document.querySelector("dialog");
const full = dialog.querySelector(".full");
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => full.replaceChildren());
for (const image of document.querySelectorAll("figure img")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "zoom";
  button.title = "Show in full size";
  image.replaceWith(button);
  button.append(image);
  button.addEventListener("click", () => {
    const copy = image.cloneNode();
    copy.loading = "eager";
    full.replaceChildren(copy);
    dialog.showModal();
  });
}
// A print shows everything.
let closed = [];
let headings = [];
const openAll = () => {
  // Headings are repeated on every page, and buttons in them are not.
  const buttons = [...document.querySelectorAll(".grid thead button")];
  headings = headings.concat(buttons.map((button) => [button.parentNode, button]));
  for (const button of buttons) button.replaceWith(...button.childNodes);
  const details = [...document.querySelectorAll("details:not([open])")];
  closed = closed.concat(details);
  for (const each of details) each.open = true;
  for (const image of document.images) image.loading = "eager";
};
const closeAgain = () => {
  for (const each of closed.splice(0)) each.open = false;
  for (const [head, button] of headings.splice(0)) {
    button.append(...head.childNodes);
    head.append(button);
  }
};
const print = window.matchMedia("print");
print.addEventListener("change", (event) => (event.matches ? openAll() : closeAgain()));
window.addEventListener("beforeprint", openAll);
window.addEventListener("afterprint", closeAgain);
if (print.matches) openAll();
// On a narrow screen the contents would push everything down.
if (window.matchMedia("(max-width: 71.9rem)").matches) document.querySelector(".contents").open = false;
