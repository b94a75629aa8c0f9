// What all charts share: the figure around them, axes, and a cursor for mouse and keyboard.

import { atEachWidth, disclosure, el, svg, uniqueId } from "./dom.js";

/** Pixels per character of a tick label, at most. */
export const LETTER = 6.6;
const MARGIN = 12; // pixels to the right of the axes

/**
 * A figure with a title, a chart, a note and its values as a table.
 *
 * `draw(width)` returns {node, stops, describe, place}: the SVG, how many positions the cursor has,
 * what is at position i as {title, rows: [{name, value, color}]}, and where it is in pixels
 * (x, y of the tooltip; show(i) moves the marks).
 */
export function figure({ title, note, label, draw, table, tools, size }) {
  const id = uniqueId("chart");
  const canvas = el("div", { class: "canvas" });
  const tip = el("div", { class: "tip", hidden: true });
  let cursor = null;
  const redraw = (width) => {
    tip.hidden = true;
    const plot = draw(width);
    const focused = canvas.contains(document.activeElement);
    canvas.replaceChildren(plot.node, tip);
    cursor = attachCursor(plot, tip, label, width, cursor?.position ?? null);
    if (focused) plot.node.focus({ preventScroll: true });
  };
  atEachWidth(canvas, redraw);
  const node = el(
    "figure",
    { class: `chart ${size ?? ""}`, "aria-labelledby": id },
    el("figcaption", { id }, title),
    tools,
    canvas,
    note && el("p", { class: "note" }, note),
    table && disclosure("Values as a table", table),
  );
  return { node, redraw: () => canvas.clientWidth && redraw(Math.floor(canvas.clientWidth)) };
}

/** The chart as a slider: arrow keys and the mouse move along it, the tooltip is its value. */
function attachCursor(plot, tip, label, width, position) {
  const { node, stops } = plot;
  const state = { position };
  if (stops === 0) {
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", label);
    return state;
  }
  node.setAttribute("role", "slider");
  node.setAttribute("tabindex", "0");
  node.setAttribute("aria-label", `${label} Arrow keys read the values.`);
  node.setAttribute("aria-valuemin", "1");
  node.setAttribute("aria-valuemax", String(stops));
  const setValue = (i) => {
    const { title, rows } = plot.describe(i);
    node.setAttribute("aria-valuenow", String(i + 1));
    const text = rows.map((row) => `${row.name} ${row.value}`).join(", ");
    node.setAttribute("aria-valuetext", `${title}: ${text}`);
    return { title, rows };
  };
  setValue(Math.min(position ?? 0, stops - 1));

  const show = (i) => {
    state.position = Math.max(0, Math.min(stops - 1, i));
    const { title, rows } = setValue(state.position);
    const [x, y] = plot.show(state.position);
    tip.replaceChildren(
      el("strong", {}, title),
      ...rows.map((row) =>
        el("div", {}, swatch(row.color), el("span", {}, row.name), el("b", {}, row.value)),
      ),
    );
    tip.hidden = false;
    const left = Math.min(Math.max(0, x + 12), Math.max(0, width - tip.offsetWidth));
    const flipped = x + 12 + tip.offsetWidth > width ? Math.max(0, x - 12 - tip.offsetWidth) : left;
    tip.style.setProperty("left", `${flipped}px`);
    tip.style.setProperty("top", `${y}px`);
  };
  const hide = () => {
    tip.hidden = true;
    plot.hide();
  };
  node.addEventListener("pointermove", (event) => show(plot.at(event.offsetX, event.offsetY)));
  node.addEventListener("pointerdown", (event) => show(plot.at(event.offsetX, event.offsetY)));
  node.addEventListener("pointerleave", hide);
  node.addEventListener("focus", () => {
    if (node.matches(":focus-visible")) show(state.position ?? 0);
  });
  node.addEventListener("blur", hide);
  node.addEventListener("keydown", (event) => {
    const now = state.position ?? 0;
    const moves = {
      ArrowLeft: now - 1,
      ArrowDown: now - 1,
      ArrowRight: now + 1,
      ArrowUp: now + 1,
      PageDown: now - Math.ceil(stops / 10),
      PageUp: now + Math.ceil(stops / 10),
      Home: 0,
      End: stops - 1,
    };
    if (event.key === "Escape") hide();
    else if (event.key in moves) show(moves[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return state;
}

/** A small square in a series' color. */
export function swatch(color) {
  if (!color) return null;
  const square = svg("rect", { width: 10, height: 10, rx: 2, class: `fill ${color}` });
  return svg("svg", { class: "swatch", width: 10, height: 10, "aria-hidden": "true" }, square);
}

/** Grid lines and labels of a y axis and an x axis. */
export function axes({ area, xTicks, yTicks, scaleX, scaleY, formatX, formatY, xLabel, yLabel }) {
  const { left, right, top, bottom } = area;
  const parts = [];
  for (const value of yTicks) {
    const y = Math.round(scaleY(value)) + 0.5;
    parts.push(svg("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }));
    parts.push(
      svg("text", { class: "tick", x: left - 8, y: y + 4, "text-anchor": "end" }, formatY(value)),
    );
  }
  parts.push(
    svg("line", { class: "axis", x1: left, x2: right, y1: bottom + 0.5, y2: bottom + 0.5 }),
  );
  for (const value of xTicks) {
    const text = formatX(value);
    // inside the drawing, which ends MARGIN to the right of the axis
    const x = Math.min(scaleX(value), right + MARGIN - (text.length * LETTER) / 2);
    parts.push(svg("text", { class: "tick", x, y: bottom + 18, "text-anchor": "middle" }, text));
  }
  parts.push(
    svg("text", { class: "axis-label", x: right, y: bottom + 36, "text-anchor": "end" }, xLabel),
  );
  parts.push(svg("text", { class: "axis-label", x: 0, y: top - 12 }, yLabel));
  return svg("g", { "aria-hidden": "true" }, parts);
}

/** The part of a chart of `width` and `height` that the data fills. */
export function plotArea(width, height, left = 46) {
  return { left, right: width - MARGIN, top: 30, bottom: height - 44 };
}
