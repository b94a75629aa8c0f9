// The controls of a gallery: which of its items are shown, and what is drawn over them.

import { choice, el, field, toggle } from "./dom.js";
import { OUTCOMES, className } from "./marks.js";

const ALL = "";
const KEY_OF = { truths: "g", detections: "d", masks: "m", labels: "l" };

/**
 * The controls: {node, fill, flip}. They read `state` when they are filled, correct what an address
 * asked of it that this report does not have, and call `change(changes)`.
 */
export function createFilters({ report, groups, state, change }) {
  const marks = report.pictures.flatMap(({ truths, detections }) => [...truths, ...detections]);
  const hasMarks = marks.length > 0;
  const hasMasks = marks.some((mark) => mark.path);
  const hasScores =
    hasMarks || groups.some(({ items }) => items.some(({ score }) => score !== null));
  const classes = usedClasses(report, groups);
  const outcomes = usedOutcomes(report, groups);
  if (!classes.includes(state.label)) state.label = null;
  if (!outcomes.includes(state.error)) state.error = "";
  state.startScore = hasMarks ? report.runs[state.run].threshold : 0;
  state.score ??= state.startScore;

  const classChoice = () => {
    const names = report.runs[0].class_names;
    const options = classes.map((label) => [String(label), className(names, label)]);
    const pick = (value) => change({ label: value === ALL ? null : Number(value) });
    return choice("Class", [[ALL, "all classes"], ...options], String(state.label ?? ALL), pick);
  };
  const outcomeChoice = () => {
    const options = outcomes.map((name) => [
      name,
      [name, OUTCOMES[name]].filter(Boolean).join(": "),
    ]);
    const pick = (error) => change({ error });
    return choice("Outcome", [[ALL, "all outcomes"], ...options], state.error, pick);
  };
  const switchOf = (name, words) =>
    toggle(words, state[name], (checked) => change({ [name]: checked }), KEY_OF[name]);
  const colorChoice = () => {
    const options = ["outcome", "class"].map((each) => [each, each]);
    return choice("Colors by", options, state.colors, (colors) => change({ colors }));
  };

  const filters = el("div", { class: "filters" });
  const switches = el("fieldset");
  const shows = el("div", { class: "shows" });
  return {
    node: el("div", { class: "tools" }, filters, hasMarks ? shows : null),
    fill() {
      filters.replaceChildren(
        ...(classes.length > 1 ? [classChoice()] : []),
        ...(outcomes.length > 1 ? [outcomeChoice()] : []),
        ...(hasScores ? [slider(state, (score) => change({ score }))] : []),
      );
      switches.replaceChildren(
        el("legend", { class: "visually-hidden" }, "Show"),
        switchOf("truths", "Ground truth"),
        switchOf("detections", "Detections"),
        ...(hasMasks ? [switchOf("masks", "Masks")] : []),
        switchOf("labels", "Labels"),
      );
      shows.replaceChildren(switches, colorChoice());
    },
    /** Switches as its box would; the focus stays where it is. */
    flip(name) {
      const box = switches.querySelector(`[aria-keyshortcuts=${KEY_OF[name]}]`);
      if (!hasMarks || !box) return;
      box.checked = !state[name];
      change({ [name]: box.checked });
    },
    focus: () => filters.querySelector("select, input")?.focus(),
  };
}

function slider(state, onChange) {
  const output = el("output", {}, state.score.toFixed(2));
  const input = el("input", {
    type: "range",
    min: "0",
    max: "1",
    step: "0.01",
    value: String(state.score),
    on: {
      input: (event) => {
        output.textContent = Number(event.target.value).toFixed(2);
        onChange(Number(event.target.value));
      },
    },
  });
  return field("Score from", input, " ", output);
}

/** Classes of items and of objects, ascending. */
function usedClasses(report, groups) {
  const items = groups.flatMap((group) => group.items);
  const used = new Set(items.flatMap((item) => item.labels));
  for (const { picture } of items) {
    for (const mark of report.pictures[picture].truths) used.add(mark.label);
  }
  return [...used].sort((a, b) => a - b);
}

/** Outcomes of items and of marks, in the order of OUTCOMES. */
function usedOutcomes(report, groups) {
  const items = groups.flatMap((group) => group.items);
  const used = new Set(items.map((item) => item.error).filter(Boolean));
  for (const { picture } of items) {
    const { truths, detections } = report.pictures[picture];
    for (const mark of [...truths, ...detections]) used.add(mark.status);
  }
  const order = Object.keys(OUTCOMES);
  return [...used].sort((a, b) => order.indexOf(a) - order.indexOf(b));
}
