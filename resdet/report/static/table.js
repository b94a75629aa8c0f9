// Tables that sort by their column heads, filter by name, and scroll inside their own box.

import { el, field, svg, uniqueId } from "./dom.js";
import { cell } from "./format.js";

const FILTER_FROM = 20;

/** The amount `value` of `most` as a bar of a cell. */
export function bar(value, most, color = "series-1") {
  const share = most > 0 ? Math.max(0, Math.min(1, value / most)) : 0;
  return svg(
    "svg",
    { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", width: 100, height: 10 }),
    svg("rect", { class: `fill ${color}`, width: 100 * share, height: 10 }),
  );
}

/** A box that scrolls sideways, and can be reached and scrolled by keyboard. */
export function scrollBox(label, ...children) {
  return el(
    "div",
    { class: "scroll", role: "group", tabindex: "0", "aria-label": label },
    children,
  );
}

/** A sorted copy of `rows`; missing values are last in both directions. */
function sorted(rows, column, descending) {
  const collator = new Intl.Collator("en", { numeric: true });
  const sign = descending ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [x, y] = [a[column], b[column]];
    if (x === null || y === null) return (x === null) - (y === null);
    if (typeof x === "number" && typeof y === "number") return sign * (x - y);
    return sign * collator.compare(String(x), String(y));
  });
}

/**
 * A table of `data.Table` with its columns' formats.
 *
 * `lead(row)` may replace the text of the first cell, such as by a link; `titled` shows the title,
 * which otherwise only screen readers get because a heading above says the same.
 */
export function dataTable(table, { lead = null, titled = false } = {}) {
  const { title, columns, rows, formats } = table;
  const view = { column: null, descending: false, words: "" };
  const body = el("tbody");
  const numeric = formats.map((format) => format !== "text" && format !== "code");
  const kindOf = (column) =>
    numeric[column] ? "number" : formats[column] === "code" ? "code" : null;
  const barred = table.bars ? columns.indexOf(table.bars) : -1;
  const most = barred >= 0 && formats[barred] === "percent" ? 100 : 1;

  const fillBody = () => {
    let shown = rows;
    if (view.words) shown = rows.filter((row) => String(row[0]).toLowerCase().includes(view.words));
    if (view.column !== null) shown = sorted(shown, view.column, view.descending);
    body.replaceChildren(
      ...shown.map((row) => {
        const first = el(
          "th",
          { scope: "row", class: formats[0] === "code" ? "code" : null },
          lead ? lead(row) : cell(row[0], formats[0]),
        );
        const others = row.slice(1).map((value, i) => {
          const column = i + 1;
          const text = cell(value, formats[column]);
          if (column !== barred) return el("td", { class: kindOf(column) }, text);
          return el(
            "td",
            { class: "number with-bar" },
            value === null ? null : bar(value, most),
            text,
          );
        });
        return el("tr", {}, first, others);
      }),
    );
    if (shown.length === 0) {
      body.append(
        el(
          "tr",
          {},
          el("td", { colspan: columns.length, class: "muted" }, "No row has this text."),
        ),
      );
    }
  };

  const heads = columns.map((name, column) => {
    const head = el("th", { scope: "col", class: numeric[column] && column > 0 ? "number" : null });
    if (rows.length < 2) {
      head.append(name || el("span", { class: "visually-hidden" }, "Row"));
      return head;
    }
    const press = () => {
      view.descending = view.column === column ? !view.descending : numeric[column];
      view.column = column;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", view.descending ? "descending" : "ascending");
      fillBody();
    };
    head.append(el("button", { type: "button", class: "sort", on: { click: press } }, name));
    return head;
  });

  fillBody();
  const id = uniqueId("table");
  const node = el(
    "table",
    titled ? { "aria-labelledby": id } : { "aria-label": title },
    el("thead", {}, el("tr", {}, heads)),
    body,
  );
  return el(
    "div",
    { class: "table" },
    titled ? el("h3", { id }, title) : null,
    rows.length >= FILTER_FROM ? filterField(columns[0], view, fillBody) : null,
    scrollBox(title, node),
    table.note && el("p", { class: "note" }, table.note),
  );
}

function filterField(column, view, fillBody) {
  const change = (event) => {
    view.words = event.target.value.trim().toLowerCase();
    fillBody();
  };
  return field(
    `Filter by ${column || "name"}`,
    el("input", { type: "search", on: { input: change } }),
  );
}

/** Names and values, as a description list. */
export function factList(facts) {
  return el(
    "dl",
    { class: "facts" },
    facts.map(({ name, value, note }) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value, note ? el("small", {}, note) : null)),
    ),
  );
}
