// The picture of the gallery in full: one pane, or two runs side by side, with what is in it.

import { button, disclosure, el } from "./dom.js";
import { count, fraction, threshold } from "./format.js";
import { OUTCOMES, className, colorClass, countOutcomes, focusBox, visibleMarks } from "./marks.js";
import { createPane, keyOf } from "./pane.js";

const STEP = 1.4;

/** A viewer; `onMove(-1 | 1)` asks for the previous or next item. */
export function createViewer({ report, onMove }) {
  const names = report.runs[0].class_names;
  const panes = report.runs.map(() => createPane((view) => setView(view)));
  const panesBox = el("div", { class: "panes" });
  const position = el("span", { class: "position" });
  const details = el("div", { class: "details" });
  const now = { picture: null, item: null, runs: [0], scores: [0], marks: [] };

  const setView = (view) => {
    for (const run of now.runs) panes[run].setView(view);
  };
  const zoom = (factor) => {
    const { x, y, w, h } = panes[now.runs[0]].view();
    setView({
      x: x + (w * (1 - 1 / factor)) / 2,
      y: y + (h * (1 - 1 / factor)) / 2,
      w: w / factor,
      h: h / factor,
    });
  };
  const zoomIn = () => zoom(STEP);
  const zoomOut = () => zoom(1 / STEP);
  const reset = () => setView({ x: 0, y: 0, w: now.picture.width, h: now.picture.height });
  const toObject = () => {
    const box = focusBox(now.picture, now.item);
    if (!box) return;
    // a view has the shape of the picture
    const w = Math.max(box.w, (box.h * now.picture.width) / now.picture.height);
    const h = (w * now.picture.height) / now.picture.width;
    setView({ x: box.x + (box.w - w) / 2, y: box.y + (box.h - h) / 2, w, h });
  };

  const previous = button("‹ Previous", () => onMove(-1), { "aria-keyshortcuts": "ArrowLeft" });
  const next = button("Next ›", () => onMove(1), { "aria-keyshortcuts": "ArrowRight" });
  const zoomToObject = button("Zoom to object", toObject, { "aria-keyshortcuts": "z" });
  const node = el(
    "div",
    { class: "viewer" },
    el("div", { class: "bar-of-buttons" }, previous, position, next),
    panesBox,
    el(
      "div",
      { class: "bar-of-buttons", role: "group", "aria-label": "Zoom" },
      button("−", zoomOut, { "aria-label": "Zoom out", "aria-keyshortcuts": "-" }),
      button("+", zoomIn, { "aria-label": "Zoom in", "aria-keyshortcuts": "+" }),
      button("Whole picture", reset, { "aria-keyshortcuts": "0" }),
      zoomToObject,
    ),
  );

  /** Until the slider is moved, runs side by side are shown at their own best thresholds. */
  const scoreOf = (run, state) =>
    state.score === state.startScore ? report.runs[run].threshold : state.score;

  const show = ({ picture, item, runs, state, index, total, keepView }) => {
    const samePicture = keepView && now.picture === picture && now.item === item;
    Object.assign(now, { picture, item, runs });
    previous.disabled = index === 0;
    next.disabled = index === total - 1;
    position.textContent = `${count(index + 1)} of ${count(total)}`;
    panesBox.replaceChildren(
      ...runs.map((run) => {
        const words = `${report.runs[run].name}, scores from ${threshold(scoreOf(run, state))}`;
        return el(
          "figure",
          {},
          runs.length > 1 ? el("figcaption", {}, words) : null,
          panes[run].node,
        );
      }),
    );
    panesBox.classList.toggle("two", runs.length > 1);
    now.scores = runs.map((run) => scoreOf(run, state));
    now.marks = runs.map((run, i) =>
      visibleMarks(picture, item, { ...state, score: now.scores[i] }, run),
    );
    runs.forEach((run, i) => panes[run].show(picture, now.marks[i], state, names, samePicture));
    zoomToObject.hidden = focusBox(picture, item) === null;
    fillDetails();
  };

  const fillDetails = () => {
    const { picture, item } = now;
    const [height, width] = picture.original;
    details.replaceChildren(
      el("h3", {}, picture.name),
      el("p", { class: "muted" }, `${count(width)} × ${count(height)} pixels`),
      el("p", { class: "reason" }, item.reason),
      picture.caption && !item.reason.includes(picture.caption)
        ? el("p", { class: "caption" }, picture.caption)
        : "",
      ...now.marks.flatMap((marks, i) => {
        if (marks.length === 0) return [];
        const pane = panes[now.runs[i]];
        const name = report.runs[now.runs[i]].name;
        return [
          el(
            "div",
            { class: "stack" },
            now.runs.length > 1 ? el("h4", {}, name) : null,
            el("p", { class: "muted" }, `At score ${threshold(now.scores[i])}:`),
            outcomeList(marks),
            disclosure("Objects and detections", () => markTable(marks, names, pane)),
          ),
        ];
      }),
    );
  };

  return { node, details, show, zoomIn, zoomOut, reset, toObject };
}

/** The legend of the picture: how many marks have each outcome. */
function outcomeList(marks) {
  return el(
    "ul",
    { class: "outcomes" },
    countOutcomes(marks).map(([status, amount, isTruth]) =>
      el(
        "li",
        {},
        el("span", {
          class: `line-key ${isTruth ? "truth" : "detection"} outcome-${status}`,
          "aria-hidden": "true",
        }),
        el("b", {}, count(amount)),
        el("span", {}, `${status}`),
        el("small", {}, OUTCOMES[status] ?? ""),
      ),
    ),
  );
}

/** The marks as a table; the row under the mouse or focus lights up in the picture. */
function markTable(marks, names, pane) {
  const first = [...marks].sort((a, b) => b.inFocus - a.inFocus);
  const rows = first.map((each) => {
    const { mark, isTruth } = each;
    const light = () => pane.highlight(keyOf(each));
    const off = () => pane.highlight(null);
    return el(
      "tr",
      {
        tabindex: "0",
        class: each.inFocus ? "focus" : null,
        on: { focus: light, pointerenter: light, blur: off, pointerleave: off },
      },
      el(
        "td",
        {},
        el("span", {
          class: `line-key ${isTruth ? "truth" : "detection"} ${colorClass(mark, "outcome")}`,
          "aria-hidden": "true",
        }),
        el("span", { class: "visually-hidden" }, isTruth ? "object" : "detection"),
      ),
      el("td", {}, className(names, mark.label)),
      el("td", {}, mark.status),
      el("td", { class: "number" }, fraction(mark.score)),
      el("td", { class: "number" }, fraction(mark.iou)),
    );
  });
  const heads = ["What", "Class", "Outcome", "Score", "IoU"];
  return el(
    "div",
    { class: "scroll tall", role: "group", tabindex: "0", "aria-label": "Objects and detections" },
    el(
      "table",
      { "aria-label": "Objects and detections that are shown" },
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          heads.map((head, i) =>
            el(
              "th",
              { scope: "col", class: i > 2 ? "number" : null },
              i > 0 ? head : el("span", { class: "visually-hidden" }, head),
            ),
          ),
        ),
      ),
      el("tbody", {}, rows),
    ),
  );
}
