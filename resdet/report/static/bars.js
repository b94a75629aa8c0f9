// Named amounts: histograms, TIDE's errors, and how well scores are calibrated.

import { button, el, svg } from "./dom.js";
import { count, fraction, number, share } from "./format.js";
import { LETTER, axes, figure, plotArea } from "./plot.js";
import { linear, niceRange, ticks } from "./scale.js";
import { bar, dataTable, scrollBox } from "./table.js";

const HEIGHT = 240;

/** A histogram of `data.Bars`. */
export function histogram(bars) {
  return figure({
    title: bars.title,
    note: bars.note,
    label: `${bars.title}: ${bars.y_label} by ${bars.x_label}.`,
    draw: (width) => drawHistogram(bars, width),
    table: () =>
      dataTable({
        title: bars.title,
        columns: [bars.x_label, bars.y_label],
        rows: bars.labels.map((label, i) => [label, bars.values[i]]),
        formats: ["text", "number"],
      }),
  }).node;
}

function drawHistogram({ labels, values, x_label, y_label }, width) {
  const area = plotArea(width, HEIGHT, 56);
  const range = niceRange(Math.min(0, ...values), Math.max(...values, 0), 4);
  const scaleY = linear(range[0], range[1], area.bottom, area.top);
  const band = (area.right - area.left) / labels.length;
  const middle = (i) => area.left + band * (i + 0.5);
  const longest = Math.max(...labels.map((label) => label.length)) * LETTER + 6;
  const every = Math.max(1, Math.ceil(longest / band));
  const rects = values.map((value, i) =>
    svg("rect", {
      class: "fill series-1",
      x: area.left + band * i + Math.min(2, band * 0.1),
      width: Math.max(1, band - Math.min(4, band * 0.2)),
      y: scaleY(Math.max(0, value)),
      height: Math.abs(scaleY(value) - scaleY(0)),
    }),
  );
  const cursor = svg("rect", {
    class: "band",
    y: area.top,
    height: area.bottom - area.top,
    width: band,
    visibility: "hidden",
  });
  const node = svg(
    "svg",
    { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` },
    axes({
      area,
      scaleX: middle,
      scaleY,
      xTicks: labels.map((_, i) => i).filter((i) => i % every === 0),
      yTicks: ticks(range[0], range[1], 4),
      formatX: (i) => labels[i],
      formatY: number,
      xLabel: x_label,
      yLabel: y_label,
    }),
    cursor,
    rects,
  );
  return {
    node,
    stops: labels.length,
    at: (x) => Math.floor((x - area.left) / band),
    describe: (i) => ({
      title: labels[i],
      rows: [{ name: y_label, value: number(values[i]), color: "series-1" }],
    }),
    show(i) {
      cursor.setAttribute("x", area.left + band * i);
      cursor.setAttribute("visibility", "visible");
      return [middle(i), area.top];
    },
    hide: () => cursor.setAttribute("visibility", "hidden"),
  };
}

/** TIDE: what fixing each kind of error would gain. `open(name)` shows its pictures, or is null. */
export function errorTable({ kind, ap50, types }, open) {
  const most = Math.max(...types.map((type) => type.delta), 1e-9);
  const rows = types.map(({ name, words, delta, count: amount }) => {
    const shown = open?.(name) ?? null;
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, el("b", {}, name), el("small", {}, words)),
      el("td", { class: "number with-bar wide" }, bar(delta, most, "series-2"), fraction(delta)),
      el("td", { class: "number" }, count(amount)),
      open &&
        el(
          "td",
          {},
          shown &&
            button("Show", shown, {
              class: "small",
              "aria-label": `Show pictures of ${name} errors`,
            }),
        ),
    );
  });
  const title = `${kind}: AP50 ${fraction(ap50)}, and what is lost to each kind of error`;
  const table = el(
    "table",
    { "aria-label": title },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", { scope: "col" }, "Error"),
        el("th", { scope: "col", class: "number" }, "AP50 gained if fixed"),
        el("th", { scope: "col", class: "number" }, "Count"),
        open && el("th", { scope: "col" }, el("span", { class: "visually-hidden" }, "Pictures")),
      ),
    ),
    el("tbody", {}, rows),
  );
  return el(
    "div",
    { class: "table" },
    el("h3", {}, title),
    scrollBox(`Errors, ${kind}`, table),
    el("p", { class: "note" }, "Over all detections, whatever their score."),
  );
}

/** Scores against the share that is right, and how many have each score. */
export function calibrationChart({ kind, ece, mce, bins, note }) {
  return figure({
    title: `${kind}: expected calibration error ${fraction(ece)}, largest ${fraction(mce)}`,
    note,
    label: `Calibration of ${kind}: accuracy by score, expected calibration error ${fraction(ece)}.`,
    draw: (width) => drawCalibration(bins, width),
    table: () =>
      dataTable({
        title: `Calibration of ${kind}`,
        columns: ["score", "mean score", "accuracy", "count"],
        rows: bins.map((bin) => [
          `${number(bin.low)} to ${number(bin.high)}`,
          bin.score,
          bin.accuracy,
          bin.count,
        ]),
        formats: ["text", "fraction", "fraction", "count"],
      }),
  }).node;
}

function drawCalibration(bins, width) {
  const height = 360;
  const strip = 56;
  const area = plotArea(width, height - strip, 46);
  const scaleX = linear(0, 1, area.left, area.right);
  const scaleY = linear(0, 1, area.bottom, area.top);
  const most = Math.max(...bins.map((bin) => bin.count), 1);
  const scaleCount = linear(0, most, height - 2, height - strip + 8);
  const column = (bin) => ({
    x: scaleX(bin.low) + 1,
    width: Math.max(1, scaleX(bin.high) - scaleX(bin.low) - 2),
  });
  const filled = bins.filter((bin) => bin.count > 0);
  const cursor = svg("rect", {
    class: "band",
    y: area.top,
    height: height - area.top,
    visibility: "hidden",
  });
  const node = svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}` },
    cursor,
    axes({
      area,
      scaleX,
      scaleY,
      xTicks: ticks(0, 1, 5),
      yTicks: ticks(0, 1, 5),
      formatX: number,
      formatY: number,
      xLabel: "score",
      yLabel: "share that is right",
    }),
    filled.map((bin) => {
      const top = scaleY(bin.accuracy);
      return svg("rect", {
        class: "fill series-1",
        ...column(bin),
        y: top,
        height: area.bottom - top,
      });
    }),
    filled.map((bin) => {
      const [a, b] = [scaleY(bin.accuracy), scaleY(bin.score)];
      return svg("rect", {
        class: "gap",
        ...column(bin),
        y: Math.min(a, b),
        height: Math.abs(a - b),
      });
    }),
    svg("line", {
      class: "diagonal",
      x1: area.left,
      y1: area.bottom,
      x2: area.right,
      y2: area.top,
    }),
    bins.map((bin) =>
      svg("rect", {
        class: "fill series-rest",
        ...column(bin),
        y: scaleCount(bin.count),
        height: height - 2 - scaleCount(bin.count),
      }),
    ),
    svg(
      "text",
      { class: "axis-label", x: 0, y: height - strip / 2 + 4, "aria-hidden": "true" },
      "count",
    ),
  );
  return {
    node,
    stops: bins.length,
    at: (x) => bins.findIndex((bin, i) => x < scaleX(bin.high) || i === bins.length - 1),
    describe: (i) => {
      const bin = bins[i];
      const rows = [{ name: "count", value: count(bin.count), color: "series-rest" }];
      if (bin.count > 0) {
        rows.unshift(
          { name: "mean score", value: share(bin.score) },
          { name: "right", value: share(bin.accuracy), color: "series-1" },
        );
      }
      return { title: `score ${number(bin.low)} to ${number(bin.high)}`, rows };
    },
    show(i) {
      const { x, width: wide } = column(bins[i]);
      cursor.setAttribute("x", x);
      cursor.setAttribute("width", wide);
      cursor.setAttribute("visibility", "visible");
      return [x + wide / 2, area.top];
    },
    hide: () => cursor.setAttribute("visibility", "hidden"),
  };
}
