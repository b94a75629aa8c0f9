// A row of tabs, which the arrow keys move along.

import { el } from "./dom.js";
import { count } from "./format.js";

/** Tabs of `groups` ({key, title}); `update(key, amounts)` marks one and counts all. */
export function createTabs(groups, onSelect) {
  const tabs = groups.map((group) =>
    el(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${group.key}`,
        "aria-controls": "gallery-panel",
        on: { click: () => onSelect(group.key) },
      },
      group.title,
      el("span", { class: "amount" }),
    ),
  );
  const node = el("div", { class: "tabs", role: "tablist", "aria-label": "Lists of pictures" }, tabs);
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
    },
  };
}
