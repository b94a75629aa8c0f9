// Several runs side by side: metrics, differences with their intervals, and what differs in the configs.

import { el, svg } from "./dom.js";
import { fraction, signed } from "./format.js";
import { linear } from "./scale.js";
import { dataTable, scrollBox } from "./table.js";

const WIDTH = 160;
const HEIGHT = 22;

/** The section's content. */
export function comparison(report) {
  const first = report.runs[0].name;
  return [
    report.metrics && dataTable(report.metrics),
    ...report.comparisons.map((each) => {
      const name = report.runs[each.run].name;
      return el(
        "div",
        { class: "stack" },
        el("h3", {}, `${name} against ${first}`),
        each.significance.length > 0 ? significanceTable(each, name, first) : null,
        each.method ? el("p", { class: "note" }, each.method) : null,
        each.config_differences.length > 0
          ? configTable(
              each.config_differences,
              `Differences of the configs of ${name} and ${first}`,
              first,
              name,
            )
          : el("p", { class: "muted" }, "The configs are equal."),
      );
    }),
  ];
}

/** Keys, their base and their value. */
export function configTable(differences, title, baseName, valueName) {
  return dataTable({
    title,
    columns: ["key", baseName, valueName],
    rows: differences.map(({ key, base, value }) => [key, base || null, value || null]),
    formats: ["code", "code", "code"],
  });
}

function tone(verdict) {
  if (verdict.startsWith("better")) return "good";
  return verdict.startsWith("worse") ? "bad" : "";
}

function significanceTable({ significance }, name, first) {
  const reach = Math.max(
    ...significance.flatMap(({ delta, low, high }) => [delta, low ?? 0, high ?? 0].map(Math.abs)),
    1e-9,
  );
  const rows = significance.map(({ metric, first: before, other, delta, low, high, verdict }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, metric),
      el("td", { class: "number" }, fraction(before)),
      el("td", { class: "number" }, fraction(other)),
      el("td", { class: "number" }, signed(delta)),
      el(
        "td",
        { class: "number" },
        low === null ? "not computed" : `${signed(low)} to ${signed(high)}`,
      ),
      el("td", {}, intervalMark(delta, low, high, reach)),
      el("td", { class: `verdict ${tone(verdict)}` }, verdict),
    ),
  );
  const heads = ["Metric", first, name, "Difference", "95 % interval"];
  const table = el(
    "table",
    { "aria-label": `${name} against ${first}` },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        heads.map((head, i) => el("th", { scope: "col", class: i > 0 ? "number" : null }, head)),
        el(
          "th",
          { scope: "col" },
          el("span", { class: "visually-hidden" }, "Interval as a picture"),
        ),
        el("th", { scope: "col" }, "Verdict"),
      ),
    ),
    el("tbody", {}, rows),
  );
  return scrollBox(`${name} against ${first}`, table);
}

/** The difference as a dot on its interval, around zero. */
function intervalMark(delta, low, high, reach) {
  const x = linear(-reach, reach, 6, WIDTH - 6);
  const y = HEIGHT / 2;
  return svg(
    "svg",
    {
      class: "interval",
      width: WIDTH,
      height: HEIGHT,
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      "aria-hidden": "true",
    },
    svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: HEIGHT }),
    low === null
      ? null
      : svg("line", { class: "line series-1", x1: x(low), x2: x(high), y1: y, y2: y }),
    svg("circle", { class: "fill series-1", cx: x(delta), cy: y, r: 4 }),
  );
}
