// The galleries: tabs, filters, small pictures and the viewer.

import { button, choice, el, field, toggle } from "./dom.js";
import { count, nameEnd, number, round } from "./format.js";
import { OUTCOMES, asSeen, filterWords, focusBox, itemFits } from "./marks.js";
import { thumbnail } from "./pane.js";
import { createViewer } from "./viewer.js";

/**
 * The galleries of a run: {node, move, press}.
 *
 * `state` is the page's, and is changed here; `onState()` is called after each change.
 */
export function createGallery({ report, state, onState }) {
  const run = report.runs[state.run];
  const groups = groupsOf(report, state.run);
  const names = report.runs[0].class_names;
  const hasMarks = report.pictures.some((picture) => picture.truths.length + picture.detections.length > 0);
  const hasMasks = report.pictures.some(({ truths, detections }) => [...truths, ...detections].some((mark) => mark.path));
  const hasScores = hasMarks || groups.some(({ items }) => items.some((item) => item.score !== null));
  const classes = usedClasses(report, groups, names);
  const outcomes = outcomesOf(report, groups);
  // an address may name what this report does not have
  if (!classes.some(([label]) => Number(label) === state.label)) state.label = null;
  if (!outcomes.includes(state.error)) state.error = "";
  state.startScore = hasMarks ? run.threshold : 0;
  state.score ??= state.startScore;

  const group = () => groups.find((each) => each.key === state.group) ?? groups[0];
  const matching = (each) =>
    each.items
      .map((item, index) => ({ item, index }))
      .filter(({ item }) => itemFits(item, report.pictures[item.picture], state, each.runs.at(-1)));

  const viewer = createViewer({ report, onMove: (step) => move(step) });
  const tabs = createTabs(groups, (key) => change({ group: key, item: 0 }));
  const words = el("p", { class: "note" });
  const status = el("p", { class: "status", role: "status" });
  const strip = el("ul", { class: "strip", "aria-label": "Pictures of this gallery" });
  const empty = el("div", { class: "empty", hidden: true });
  const stage = el("div", { class: "stage" }, strip, viewer.node, viewer.details);
  const tools = el("div", { class: "tools" });
  const panel = el("div", { role: "tabpanel", id: "gallery-panel", tabindex: "-1" }, words, tools, status, empty, stage);

  const change = (changes) => {
    Object.assign(state, changes, { section: "pictures" });
    if ("group" in changes || "label" in changes || "error" in changes || "score" in changes) update();
    else refresh();
    onState();
  };

  const fillTools = () => {
    const filters = hasScores ? [slider(state, (score) => change({ score }))] : [];
    if (outcomes.length > 1) {
      const words = outcomes.map((name) => [name, OUTCOMES[name] ? `${name}: ${OUTCOMES[name]}` : name]);
      filters.unshift(choice("Outcome", [["", "all outcomes"], ...words], state.error, (error) => change({ error })));
    }
    if (classes.length > 1) {
      const pick = (value) => change({ label: value === "" ? null : Number(value) });
      const label = state.label === null ? "" : String(state.label);
      filters.unshift(choice("Class", [["", "all classes"], ...classes], label, pick));
    }
    tools.replaceChildren(el("div", { class: "filters" }, filters), hasMarks ? shows() : "");
  };
  const shows = () =>
    el(
      "div",
      { class: "shows" },
      el(
        "fieldset",
        {},
        el("legend", { class: "visually-hidden" }, "Show"),
        toggle("Ground truth", state.truths, (truths) => change({ truths }), "g"),
        toggle("Detections", state.detections, (detections) => change({ detections }), "d"),
        hasMasks ? toggle("Masks", state.masks, (masks) => change({ masks }), "m") : null,
        toggle("Labels", state.labels, (labels) => change({ labels }), "l"),
      ),
      choice("Colors by", [["outcome", "outcome"], ["class", "class"]], state.colors, (colors) => change({ colors })),
    );

  let shown = [];
  /** Everything that depends on the filters, then what depends on the item. */
  const update = () => {
    const current = group();
    state.group = current.key;
    shown = matching(current);
    tabs.update(current.key, groups.map((each) => matching(each).length));
    words.textContent = current.words;
    if (!shown.some(({ index }) => index === state.item)) state.item = shown[0]?.index ?? 0;
    strip.replaceChildren(...shown.map(({ item, index }) => thumbOf(item, index)));
    const none = shown.length === 0;
    stage.hidden = none;
    empty.hidden = !none;
    if (none) empty.replaceChildren(...emptyWords(current));
    refresh(false);
  };
  const refresh = (keepView = true) => {
    const current = group();
    status.textContent = statusWords(current, shown.length);
    for (const button of strip.querySelectorAll("button")) {
      const isCurrent = Number(button.dataset.index) === state.item;
      button.setAttribute("aria-current", String(isCurrent));
      if (isCurrent) scrollInto(strip, button.parentElement);
    }
    const position = shown.findIndex(({ index }) => index === state.item);
    if (position < 0) return;
    const { item } = shown[position];
    stage.classList.toggle("beside", current.runs.length > 1);
    viewer.show({
      picture: report.pictures[item.picture],
      item,
      runs: current.runs,
      state,
      index: position,
      total: shown.length,
      keepView,
    });
  };

  const thumbOf = (item, index) => {
    const picture = report.pictures[item.picture];
    const marks = [
      ...item.truths.map((row) => ({ mark: asSeen(picture.truths[row], picture, state.score), isTruth: true })),
      ...item.detections.map((row) => ({ mark: picture.detections[row], isTruth: false })),
    ];
    const label = `${picture.name}: ${item.reason}`;
    const caption = [item.error, item.score === null ? "" : number(round(item.score))].filter(Boolean).join(" ");
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", "data-index": index, title: label, on: { click: () => change({ item: index }) } },
        thumbnail(picture, marks, focusBox(picture, item)),
        el("span", { class: "mini" }, caption || nameEnd(picture.name)),
        el("span", { class: "visually-hidden" }, `: ${label}`),
      ),
    );
  };

  const emptyWords = (current) => {
    if (current.items.length === 0) return [el("p", {}, "There is nothing to show in this gallery.")];
    return [
      el("p", {}, `No picture of ${count(current.items.length)} matches the filters: ${filterWords(state, names)}.`),
      button("Reset filters", () => {
        change({ label: null, error: "", score: state.startScore });
        fillTools();
        tools.querySelector("select, input")?.focus();
      }),
    ];
  };

  const move = (step) => {
    const position = shown.findIndex(({ index }) => index === state.item);
    const next = shown[position + step];
    if (!next) return;
    const inStrip = strip.contains(document.activeElement);
    change({ item: next.index });
    if (inStrip) strip.querySelector("[aria-current=true]").focus();
  };

  const keys = {
    ArrowLeft: () => move(-1),
    ArrowRight: () => move(1),
    "+": () => viewer.zoom(viewer.STEP),
    "=": () => viewer.zoom(viewer.STEP),
    "-": () => viewer.zoom(1 / viewer.STEP),
    0: () => viewer.reset(),
    z: () => viewer.toObject(),
    g: () => flip("truths"),
    d: () => flip("detections"),
    m: () => hasMasks && flip("masks"),
    l: () => flip("labels"),
  };
  const flip = (name) => {
    if (!hasMarks) return;
    change({ [name]: !state[name] });
    // not rebuilt: the focus stays where it is
    tools.querySelector(`[aria-keyshortcuts=${name[0] === "t" ? "g" : name[0]}]`).checked = state[name];
  };

  fillTools();
  update();
  return {
    node: el("div", { class: "gallery" }, tabs.node, panel),
    /** Shows a gallery with filters, such as by a link from a chart. */
    open(changes) {
      change({ label: null, error: "", item: 0, ...changes });
      fillTools();
    },
    /** Scrolls to what is chosen, once the gallery is in the page. */
    settle() {
      tabs.settle();
      refresh();
    },
    /** Acts on a key; false if it has no meaning here. */
    press(key) {
      if (shown.length === 0 || !Object.hasOwn(keys, key)) return false;
      keys[key]();
      return true;
    },
  };
}

/** Galleries of a run, with those of images that changed between it and the first run. */
export function groupsOf(report, runIndex) {
  const own = report.runs[runIndex].gallery.map((group) => ({ ...group, runs: [runIndex] }));
  const changed = report.comparisons
    .filter(({ changed: group, run }) => group && (runIndex === 0 || run === runIndex))
    .map(({ changed: group, run }) => ({
      ...group,
      key: `${group.key}_${run}`,
      title: report.runs.length > 2 ? `${group.title}: ${report.runs[run].name}` : group.title,
      runs: [0, run],
    }));
  return [...own, ...changed];
}

function usedClasses(report, groups, names) {
  const used = new Set();
  for (const { items } of groups) {
    for (const item of items) {
      for (const label of item.labels) used.add(label);
      for (const mark of report.pictures[item.picture].truths) used.add(mark.label);
    }
  }
  return [...used].sort((a, b) => a - b).map((label) => [String(label), names[label] ?? `class ${label}`]);
}

function outcomesOf(report, groups) {
  const used = new Set();
  for (const { items } of groups) {
    for (const item of items) {
      if (item.error) used.add(item.error);
      const picture = report.pictures[item.picture];
      for (const mark of [...picture.truths, ...picture.detections]) used.add(mark.status);
    }
  }
  const order = Object.keys(OUTCOMES);
  return [...used].sort((a, b) => order.indexOf(a) - order.indexOf(b));
}

function statusWords(group, amount) {
  const of = group.total > group.items.length ? `; the page has the first ${count(group.items.length)} of ${count(group.total)}` : "";
  if (amount === group.items.length) return `${count(amount)} shown${of}.`;
  return `${count(amount)} of ${count(group.items.length)} match the filters${of}.`;
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

/** Scrolls `box` so that `child` is seen, and never the page. */
function scrollInto(box, child) {
  const [outer, inner] = [box.getBoundingClientRect(), child.getBoundingClientRect()];
  if (inner.top < outer.top) box.scrollTop += inner.top - outer.top - 8;
  if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom + 8;
  if (inner.left < outer.left) box.scrollLeft += inner.left - outer.left - 8;
  if (inner.right > outer.right) box.scrollLeft += inner.right - outer.right + 8;
}

function createTabs(groups, onSelect) {
  const tabs = groups.map((group) =>
    el(
      "button",
      { type: "button", role: "tab", id: `tab-${group.key}`, "aria-controls": "gallery-panel", on: { click: () => onSelect(group.key) } },
      group.title,
      el("span", { class: "amount" }),
    ),
  );
  const node = el("div", { class: "tabs", role: "tablist", "aria-label": "Galleries" }, tabs);
  node.addEventListener("keydown", (event) => {
    const now = tabs.indexOf(document.activeElement);
    const moves = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: tabs.length - 1 };
    if (now < 0 || !(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    const next = (moves[event.key] + tabs.length) % tabs.length;
    onSelect(groups[next].key);
    tabs[next].focus();
  });
  return {
    node,
    update(key, amounts) {
      tabs.forEach((tab, i) => {
        const selected = groups[i].key === key;
        tab.setAttribute("aria-selected", String(selected));
        tab.setAttribute("tabindex", selected ? "0" : "-1");
        tab.querySelector(".amount").textContent = count(amounts[i]);
      });
      this.settle();
    },
    settle: () => scrollInto(node, node.querySelector("[aria-selected=true]")),
  };
}
