// Small pictures of a gallery's items.

import { el, scrollInto } from "./dom.js";
import { nameEnd, number, round } from "./format.js";
import { asSeen, focusBox } from "./marks.js";
import { thumbnail } from "./pane.js";

/** The thumbnails: {node, fill, mark}; `onSelect(index)` is called with an item's index. */
export function createStrip({ report, state, onSelect }) {
  const node = el("ul", { class: "strip", "aria-label": "Pictures of this tab" });
  const thumbOf = ({ item, index }) => {
    const picture = report.pictures[item.picture];
    const label = `${picture.name}: ${item.reason}`;
    const score = item.score === null ? "" : number(round(item.score));
    const caption = [item.error, score].filter(Boolean).join(" ");
    return el(
      "button",
      { type: "button", "data-index": index, title: label, on: { click: () => onSelect(index) } },
      thumbnail(picture, ownMarks(item, picture, state.score), focusBox(picture, item)),
      el("span", { class: "mini" }, caption || nameEnd(picture.name)),
      el("span", { class: "visually-hidden" }, `: ${label}`),
    );
  };
  return {
    node,
    /** Shows items, given as {item, index}. */
    fill: (shown) => node.replaceChildren(...shown.map((each) => el("li", {}, thumbOf(each)))),
    /** Marks the item of the viewer, and moves the focus along if it was here. */
    mark(index) {
      const hadFocus = node.contains(document.activeElement);
      for (const thumb of node.querySelectorAll("button")) {
        const isCurrent = Number(thumb.dataset.index) === index;
        thumb.setAttribute("aria-current", String(isCurrent));
        if (!isCurrent) continue;
        scrollInto(node, thumb.parentElement);
        if (hadFocus) thumb.focus({ preventScroll: true });
      }
    },
  };
}

function ownMarks(item, picture, score) {
  const own = (rows, marks) => rows.map((row) => marks[row]).filter(Boolean);
  const truths = own(item.truths, picture.truths).map((mark) => asSeen(mark, picture, score));
  const detections = own(item.detections, picture.detections);
  return [
    ...truths.map((mark) => ({ mark, isTruth: true })),
    ...detections.map((mark) => ({ mark, isTruth: false })),
  ];
}
