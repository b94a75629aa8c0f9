// The confusion matrix as a table: rows are true classes, columns predicted ones.

import { el } from "./dom.js";
import { count, share } from "./format.js";
import { dataTable, scrollBox } from "./table.js";

const STEPS = 8; // shades
const LARGE = 10; // classes from which the matrix has the whole width
const DENSE = 25; // classes from which its cells are small
const COLORS = "The color of a cell is its share of its row, that is, of its true class.";

/** The matrix with its cell reader, and the most confused pairs. */
export function confusionMatrix(confusion) {
  const { kind, names, matrix, pairs, note } = confusion;
  const totals = matrix.map((row) => row.reduce((sum, value) => sum + value, 0));
  const reader = el(
    "p",
    { class: "reader", "aria-live": "polite" },
    "Point at a cell, or move through the table with the arrow keys.",
  );
  const describe = (i, j) =>
    `True ${names[i]}, predicted ${names[j]}: ${count(matrix[i][j])}` +
    (totals[i] > 0 ? ` (${share(matrix[i][j] / totals[i])} of the row)` : "");
  const body = el("tbody");
  matrix.forEach((row, i) => {
    const cells = row.map((value, j) => {
      const part = totals[i] > 0 ? value / totals[i] : 0;
      const shade = value === 0 ? 0 : Math.max(1, Math.ceil(part * STEPS));
      return el(
        "td",
        {
          class: `shade-${shade}${i === j ? " diagonal" : ""}`,
          tabindex: i === 0 && j === 0 ? "0" : "-1",
          "data-row": i,
          "data-column": j,
          "aria-label": describe(i, j),
        },
        value === 0 ? "" : count(value),
      );
    });
    body.append(el("tr", {}, el("th", { scope: "row" }, el("span", {}, names[i])), cells));
  });
  const read = (cell) => {
    reader.textContent = describe(Number(cell.dataset.row), Number(cell.dataset.column));
  };
  body.addEventListener("pointerover", (event) => {
    const cell = event.target.closest("td");
    if (cell) read(cell);
  });
  body.addEventListener("focusin", (event) => {
    if (event.target.matches("td")) read(event.target);
  });
  body.addEventListener("keydown", (event) => moveCell(event, body));

  const title = `${kind}: rows are true classes, columns predicted classes`;
  const table = el(
    "table",
    { class: `matrix${names.length > DENSE ? " dense" : ""}`, role: "grid", "aria-label": title },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", { class: "corner" }, el("span", {}, "true"), el("span", {}, "predicted")),
        names.map((name) => el("th", { scope: "col", title: name }, el("span", {}, name))),
      ),
    ),
    body,
  );
  return el(
    "div",
    { class: `confusion${names.length > LARGE ? " large" : ""}` },
    el(
      "div",
      { class: "table" },
      el("h3", {}, title),
      scrollBox(`Confusion matrix, ${kind}`, table),
      reader,
      el("p", { class: "note" }, [note, COLORS].filter(Boolean).join(" ")),
    ),
    pairs.rows.length > 0 ? dataTable(pairs, { titled: true }) : null,
  );
}

/** Arrow keys, Home and End move the focus among the cells. */
function moveCell(event, body) {
  const cell = event.target.closest("td");
  if (!cell) return;
  const row = Number(cell.dataset.row);
  const column = Number(cell.dataset.column);
  const last = body.rows.length - 1;
  const moves = {
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    Home: [row, 0],
    End: [row, last],
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  event.stopPropagation();
  const [i, j] = moves[event.key];
  const next = body.rows[i]?.cells[j + 1];
  if (!next || next === cell || j < 0) return;
  cell.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
}
