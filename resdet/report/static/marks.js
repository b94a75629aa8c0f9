// Objects and detections: which are shown, what they are called, how they look.

import { number, plural, round } from "./format.js";

/** What the outcomes of objects and detections mean. */
export const OUTCOMES = {
  found: "object that a detection matches",
  missed: "object that no detection matches",
  crowd: "region of many objects, not evaluated",
  correct: "detection of an object",
  ignored: "detection that is not evaluated",
  Cls: "wrong class",
  Loc: "right class, too little overlap",
  Both: "wrong class and too little overlap",
  Dupe: "second detection of an object",
  Bkg: "detection where no object is",
};

const CLASS_COLORS = 14;

/** An object as it is at a score: found only if the detection that matches it is shown. */
export function asSeen(truth, picture, score) {
  const match =
    truth.status === "found" && truth.partner !== null ? picture.detections[truth.partner] : null;
  return match && match.score < score ? { ...truth, status: "missed" } : truth;
}

/** The class that colors a mark: by its outcome or by its class. */
export function colorClass(mark, colors) {
  return colors === "class" ? `class-${mark.label % CLASS_COLORS}` : `outcome-${mark.status}`;
}

/** The class of a mark by its name. */
export function className(names, label) {
  return names[label] ?? `class ${label}`;
}

/** A mark in one line of words. */
export function describeMark(mark, isTruth, names) {
  const parts = [className(names, mark.label), mark.status].filter(Boolean);
  if (mark.score !== null) parts.push(`score ${number(round(mark.score))}`);
  if (mark.iou !== null) parts.push(`IoU ${number(round(mark.iou))}`);
  return `${isTruth ? "Ground truth" : "Detection"}: ${parts.join(", ")}`;
}

/**
 * The marks of a picture that are drawn, as {mark, row, isTruth, inFocus}.
 *
 * The item's own marks are always there; filters hide others. `run` is the run whose marks are
 * shown: whether an object is found differs between runs, so that each has its own.
 */
export function visibleMarks(picture, item, state, run) {
  const fits = (mark) =>
    (state.label === null || mark.label === state.label) &&
    (state.error === "" || item.error !== "" || mark.status === state.error);
  const truths = picture.truths
    .map((mark, row) => ({
      mark: asSeen(mark, picture, state.score),
      row,
      isTruth: true,
      inFocus: item.truths.includes(row),
    }))
    .filter(({ mark, inFocus }) => state.truths && mark.run === run && (inFocus || fits(mark)));
  const detections = picture.detections
    .map((mark, row) => ({ mark, row, isTruth: false, inFocus: item.detections.includes(row) }))
    .filter(({ mark }) => state.detections && mark.run === run)
    .filter(({ mark, inFocus }) => inFocus || (mark.score >= state.score && fits(mark)));
  return [...truths, ...detections];
}

/** Numbers of marks by outcome, as [status, count, isTruth], objects first. */
export function countOutcomes(marks) {
  const counts = new Map();
  for (const { mark, isTruth } of marks) {
    const entry = counts.get(mark.status) ?? [mark.status, 0, isTruth];
    entry[1] += 1;
    counts.set(mark.status, entry);
  }
  const order = Object.keys(OUTCOMES);
  return [...counts.values()].sort((a, b) => order.indexOf(a[0]) - order.indexOf(b[0]));
}

/** The smallest box around the item's marks with some of what is around it, or the whole picture. */
export function focusBox(picture, item) {
  const boxes = [
    ...item.truths.map((row) => picture.truths[row]),
    ...item.detections.map((row) => picture.detections[row]),
  ]
    .filter(Boolean)
    .map((mark) => mark.box);
  if (boxes.length === 0) return null;
  const x1 = Math.min(...boxes.map((box) => box[0]));
  const y1 = Math.min(...boxes.map((box) => box[1]));
  const x2 = Math.max(...boxes.map((box) => box[2]));
  const y2 = Math.max(...boxes.map((box) => box[3]));
  const side = Math.max(x2 - x1, y2 - y1, 12) * 2.2;
  // inside the picture, unless it is smaller
  const start = (low, high, size) =>
    Math.max(Math.min(0, size - side), Math.min((low + high - side) / 2, Math.max(0, size - side)));
  return { x: start(x1, x2, picture.width), y: start(y1, y2, picture.height), w: side, h: side };
}

/** Whether every object of an item, if it has any, is missed at the slider's score. */
function isMissed(item, picture, score) {
  return item.truths.every((row) => asSeen(picture.truths[row], picture, score).status === "missed");
}

/** Whether an item passes the class, outcome and score filters. */
export function itemFits(item, picture, state, run) {
  if (item.score !== null && item.score < state.score) return false;
  if (item.error === "missed" && !isMissed(item, picture, state.score)) return false;
  const marks = () => [
    ...picture.truths
      .filter((mark) => mark.run === run)
      .map((mark) => asSeen(mark, picture, state.score)),
    ...picture.detections.filter((mark) => mark.run === run && mark.score >= state.score),
  ];
  const whole = item.truths.length + item.detections.length === 0;
  if (state.label !== null && !item.labels.includes(state.label)) {
    if (!whole || item.labels.length > 0 || !marks().some((mark) => mark.label === state.label))
      return false;
  }
  if (state.error !== "" && item.error !== state.error) {
    if (item.error !== "" || !marks().some((mark) => mark.status === state.error)) return false;
  }
  return true;
}

/** The filters that are set, in words. */
export function filterWords(state, names) {
  const parts = [];
  if (state.label !== null) parts.push(`class ${className(names, state.label)}`);
  if (state.error !== "") parts.push(`outcome ${state.error}`);
  if (state.score > 0) parts.push(`score from ${number(state.score)}`);
  return parts.join(", ");
}

/** What a picture shows, for those who do not see it. */
export function pictureWords(picture, marks) {
  const truths = marks.filter((each) => each.isTruth).length;
  const detections = marks.length - truths;
  const words = [
    truths > 0 && plural(truths, "object"),
    detections > 0 && plural(detections, "detection"),
  ].filter(Boolean);
  const shown = words.length > 0 ? `: ${words.join(" and ")} shown` : "";
  return `${picture.name}, ${picture.original[1]} × ${picture.original[0]} pixels${shown}`;
}
