// Light, dark, or what the system asks for.

import { el } from "./dom.js";

const KEY = "resdet-report-theme";
const THEMES = [
  ["auto", "Auto"],
  ["light", "Light"],
  ["dark", "Dark"],
];

function stored() {
  try {
    return localStorage.getItem(KEY) ?? "auto";
  } catch {
    return "auto"; // pages from disk may have no storage
  }
}

function apply(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

/** The switch; the choice is kept where the browser allows it. */
export function themeSwitch() {
  const now = stored();
  apply(now);
  const choose = (theme) => {
    apply(theme);
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // the choice holds for this page
    }
  };
  return el(
    "fieldset",
    { class: "segments" },
    el("legend", { class: "visually-hidden" }, "Theme"),
    THEMES.map(([value, text]) =>
      el(
        "label",
        {},
        el("input", {
          type: "radio",
          name: "theme",
          value,
          checked: value === now,
          on: { change: () => choose(value) },
        }),
        el("span", {}, text),
      ),
    ),
  );
}
