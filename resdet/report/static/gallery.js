// The galleries: tabs, filters, small pictures and the viewer.

import { button, el } from "./dom.js";
import { createFilters } from "./filters.js";
import { count, threshold } from "./format.js";
import { filterWords, itemFits } from "./marks.js";
import { createStrip } from "./strip.js";
import { createTabs } from "./tabs.js";
import { createViewer } from "./viewer.js";

/**
 * The galleries of a run: {node, open, press, settle}.
 *
 * `state` is the page's, and is changed here; `onState()` is called after each change.
 */
export function createGallery({ report, state, onState }) {
  const groups = groupsOf(report, state.run);
  let shown = []; // {item, index} of the group's items that pass the filters

  const change = (changes) => {
    Object.assign(state, changes, { section: "pictures" });
    const isFilter = ["group", "label", "error", "score"].some((name) => name in changes);
    if (isFilter) update();
    else refresh();
    onState();
  };
  const move = (step) => {
    const next = shown[shown.findIndex(({ index }) => index === state.item) + step];
    if (next) change({ item: next.index });
  };

  const filters = createFilters({ report, groups, state, change });
  const tabs = createTabs(groups, (key) => change({ group: key, item: 0 }));
  const strip = createStrip({ report, state, onSelect: (item) => change({ item }) });
  const viewer = createViewer({ report, onMove: move });
  const words = el("p", { class: "note" });
  const status = el("p", { class: "status", role: "status" });
  const empty = el("div", { class: "empty", hidden: true });
  const stage = el("div", { class: "stage" }, strip.node, viewer.node, viewer.details);
  const panel = el("div", { role: "tabpanel", id: "gallery-panel", tabindex: "-1" }, [
    words,
    filters.node,
    status,
    empty,
    stage,
  ]);

  const currentGroup = () => groups.find(({ key }) => key === state.group) ?? groups[0];
  const matching = ({ items, runs }) =>
    items
      .map((item, index) => ({ item, index }))
      .filter(({ item }) => itemFits(item, report.pictures[item.picture], state, runs.at(-1)));

  /** Shows everything that depends on the filters, then what depends on the item. */
  const update = () => {
    const group = currentGroup();
    state.group = group.key;
    shown = matching(group);
    const amounts = groups.map((each) => matching(each).length);
    tabs.update(group.key, amounts);
    words.textContent = group.words;
    status.textContent = statusWords(group, shown.length, state);
    if (!shown.some(({ index }) => index === state.item)) state.item = shown[0]?.index ?? 0;
    strip.fill(shown);
    stage.hidden = shown.length === 0;
    empty.hidden = shown.length > 0;
    if (shown.length === 0) empty.replaceChildren(...emptyWords(group));
    refresh(false);
  };
  const refresh = (keepView = true) => {
    const group = currentGroup();
    strip.mark(state.item);
    const position = shown.findIndex(({ index }) => index === state.item);
    if (position < 0) return;
    const { item } = shown[position];
    stage.classList.toggle("beside", group.runs.length > 1);
    viewer.show({
      picture: report.pictures[item.picture],
      item,
      runs: group.runs,
      state,
      index: position,
      total: shown.length,
      keepView,
    });
  };

  const emptyWords = ({ items }) => {
    if (items.length === 0) return [el("p", {}, "There is nothing to show in this tab.")];
    const set = filterWords(state, report.runs[0].class_names);
    const reset = () => {
      change({ label: null, error: "", score: state.startScore });
      filters.fill();
      filters.focus();
    };
    return [
      el("p", {}, `No picture of ${count(items.length)} matches the filters: ${set}.`),
      button("Reset filters", reset),
    ];
  };

  const keys = {
    ArrowLeft: () => move(-1),
    ArrowRight: () => move(1),
    "+": viewer.zoomIn,
    "=": viewer.zoomIn,
    "-": viewer.zoomOut,
    0: viewer.reset,
    z: viewer.toObject,
    g: () => filters.flip("truths"),
    d: () => filters.flip("detections"),
    m: () => filters.flip("masks"),
    l: () => filters.flip("labels"),
  };

  filters.fill();
  update();
  return {
    node: el("div", { class: "gallery" }, tabs.node, panel),
    /** Shows a gallery with filters, such as by a link from a chart. */
    open(changes) {
      change({ label: null, error: "", item: 0, ...changes });
      filters.fill();
    },
    /** Acts on a key; false if it has no meaning here. */
    press(key) {
      if (shown.length === 0 || !Object.hasOwn(keys, key)) return false;
      keys[key]();
      return true;
    },
    /** Scrolls to what is chosen, once the gallery is in the page. */
    settle() {
      strip.mark(state.item);
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

function statusWords(group, amount, state) {
  const { items, total } = group;
  const at = group.threshold === null ? "" : ` at score ${threshold(group.threshold)}`;
  const of =
    total > items.length
      ? `; the page has the first ${count(items.length)} of ${count(total)}${at}`
      : "";
  const shown =
    amount === items.length
      ? `${count(amount)} shown${of}.`
      : `${count(amount)} of ${count(items.length)} match the filters${of}.`;
  if (!at || state.score === state.startScore) return shown;
  return `${shown} The list was chosen${at}: what only another score would add is not in it.`;
}
