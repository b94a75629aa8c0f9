// Lines over a common axis: curves of training, precision over recall, F1 over the score.

import { choice, el, svg } from "./dom.js";
import { number } from "./format.js";
import { axes, figure, plotArea, swatch } from "./plot.js";
import { extent, linear, linePath, nearest, niceRange, ticks } from "./scale.js";
import { dataTable } from "./table.js";

const COLORS = 7;
const HEIGHT = 280;

/** A chart of `data.Chart`; with more than seven lines, one at a time is brought to the front. */
export function lineChart(chart, size) {
  const crowded = chart.series.length > COLORS;
  const view = { hidden: new Set(), front: crowded ? 1 : -1 };
  const built = figure({
    title: chart.title,
    note: chart.note,
    size,
    label: `${chart.title}: ${chart.y_label} over ${chart.x_label}, ${lineNames(chart)}.`,
    draw: (width) => draw(chart, view, crowded, width),
    table: () => valueTable(chart),
    tools: crowded
      ? picker(chart, view, () => built.redraw())
      : legend(chart, view, () => built.redraw()),
  });
  return built.node;
}

function lineNames({ series }) {
  const names = series
    .slice(0, COLORS)
    .map((each) => each.name)
    .join(", ");
  return series.length > COLORS ? `${names} and ${series.length - COLORS} more` : names;
}

function colorOf(i, view, crowded) {
  if (!crowded) return `series-${i + 1}`;
  if (i === 0) return "series-1";
  return i === view.front ? "series-2" : "series-rest";
}

function legend(chart, view, redraw) {
  if (chart.series.length < 2) return null;
  return el(
    "ul",
    { class: "legend" },
    chart.series.map((series, i) => {
      const press = (event) => {
        const shown = view.hidden.delete(i);
        if (!shown) view.hidden.add(i);
        event.currentTarget.setAttribute("aria-pressed", String(shown));
        redraw();
      };
      return el(
        "li",
        {},
        el(
          "button",
          { type: "button", class: "key", "aria-pressed": "true", on: { click: press } },
          swatch(`series-${i + 1}`),
          series.name,
        ),
      );
    }),
  );
}

function picker(chart, view, redraw) {
  const options = chart.series.map((series, i) => [String(i), series.name]).slice(1);
  return choice("In front", options, String(view.front), (value) => {
    view.front = Number(value);
    redraw();
  });
}

/** The series that are drawn, the one in front last. */
function shownSeries(chart, view) {
  const rows = chart.series
    .map((series, i) => ({ series, i }))
    .filter(({ i }) => !view.hidden.has(i));
  return rows.sort((a, b) => (a.i === view.front) - (b.i === view.front));
}

function draw(chart, view, crowded, width) {
  const area = plotArea(width, HEIGHT);
  const rows = shownSeries(chart, view);
  const [lowX, highX] = extent(chart.series.flatMap((series) => series.x));
  const range =
    chart.y_range ?? niceRange(...extent(chart.series.flatMap((series) => series.y)), 5);
  const [firstX, lastX] = highX > lowX ? [lowX, highX] : niceRange(lowX, highX, 5);
  const scaleX = linear(firstX, lastX, area.left, area.right);
  const scaleY = linear(range[0], range[1], area.bottom, area.top);
  const lines = rows.map(({ series, i }) =>
    svg("path", {
      class: `line ${colorOf(i, view, crowded)}`,
      d: linePath(series.x, series.y, scaleX, scaleY),
    }),
  );
  const single = rows.flatMap(({ series, i }) =>
    series.x.length === 1 && series.y[0] !== null
      ? [
          svg("circle", {
            class: `fill ${colorOf(i, view, crowded)}`,
            cx: scaleX(series.x[0]),
            cy: scaleY(series.y[0]),
            r: 4,
          }),
        ]
      : [],
  );
  const cursor = svg("g", { class: "cursor" });
  const node = svg(
    "svg",
    { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` },
    axes({
      area,
      scaleX,
      scaleY,
      xTicks: ticks(firstX, lastX, Math.max(2, width / 90)),
      yTicks: ticks(range[0], range[1], 5),
      formatX: number,
      formatY: number,
      xLabel: chart.x_label,
      yLabel: chart.y_label,
    }),
    chart.mark_x === null ? null : mark(chart.mark_x, scaleX, area),
    lines,
    single,
    cursor,
  );
  const named = crowded ? rows.filter(({ i }) => i === 0 || i === view.front) : rows;
  return {
    node,
    ...reading(chart, named, { scaleX, scaleY, area, cursor }, (i) => colorOf(i, view, crowded)),
  };
}

function mark(value, scaleX, area) {
  const x = scaleX(value);
  const before = x > (area.left + area.right) / 2;
  return svg(
    "g",
    { class: "mark" },
    svg("line", { x1: x, x2: x, y1: area.top, y2: area.bottom }),
    svg(
      "text",
      { x: x + (before ? -6 : 6), y: area.top + 10, "text-anchor": before ? "end" : "start" },
      `best ${number(Number(value.toPrecision(3)))}`,
    ),
  );
}

/** What the cursor reads: at each x of any line, the values of the lines that have one there. */
function reading(chart, rows, { scaleX, scaleY, area, cursor }, color) {
  const stops = [...new Set(rows.flatMap(({ series }) => series.x))].sort((a, b) => a - b);
  const sorted = rows.map(({ series, i }) => ({ i, name: series.name, ...ascending(series) }));
  const at = (position) => {
    const x = stops[position];
    return sorted
      .map(({ i, name, xs, ys, reach }) => {
        const k = nearest(xs, x);
        return { i, name, x: xs[k], y: Math.abs(xs[k] - x) <= reach ? ys[k] : null };
      })
      .filter((point) => point.y !== null && point.y !== undefined);
  };
  return {
    stops: stops.length,
    at: (offsetX) => nearest(stops.map(scaleX), offsetX),
    describe: (position) => ({
      title: `${chart.x_label} ${number(stops[position])}`,
      rows: at(position).map(({ i, name, y }) => ({
        name,
        value: number(Number(y.toPrecision(4))),
        color: color(i),
      })),
    }),
    show(position) {
      const x = scaleX(stops[position]);
      cursor.replaceChildren(
        svg("line", { x1: x, x2: x, y1: area.top, y2: area.bottom }),
        ...at(position).map((point) =>
          svg("circle", {
            class: `fill ${color(point.i)}`,
            cx: scaleX(point.x),
            cy: scaleY(point.y),
            r: 4,
          }),
        ),
      );
      return [x, area.top];
    },
    hide: () => cursor.replaceChildren(),
  };
}

/** A line's points by ascending x, and how far from one of them the cursor still reads it. */
function ascending({ x, y }) {
  const order = x.map((_, i) => i).sort((a, b) => x[a] - x[b]);
  const xs = order.map((i) => x[i]);
  const span = xs.length > 1 ? (xs[xs.length - 1] - xs[0]) / (xs.length - 1) : 0;
  return { xs, ys: order.map((i) => y[i]), reach: 0.51 * span + 1e-9 };
}

function valueTable({ title, x_label, series }) {
  const rows = series.flatMap(({ name, x, y }) => x.map((each, i) => [name, each, y[i]]));
  return dataTable({
    title,
    columns: ["line", x_label, "value"],
    rows,
    formats: ["text", "number", "number"],
  });
}
