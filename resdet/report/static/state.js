// What the page shows, kept in the address so that a view can be linked to: #pictures?tab=missed&item=3

const SHOW = { g: "truths", d: "detections", m: "masks", l: "labels" };

/** The state of a page that was just opened. */
export function initialState() {
  return {
    section: "",
    run: 0,
    group: "",
    item: 0,
    label: null,
    error: "",
    score: null,
    startScore: null, // where the slider stands unless the address says otherwise
    colors: "outcome",
    truths: true,
    detections: true,
    masks: true,
    labels: false,
  };
}

function whole(text, fallback) {
  return /^\d{1,9}$/.test(text ?? "") ? Number(text) : fallback;
}

/** The state that an address's hash stands for; what it does not name is as at the start. */
export function parseHash(hash) {
  const [section, query = ""] = hash.replace(/^#/, "").split("?");
  const values = new URLSearchParams(query);
  const state = { ...initialState(), section };
  state.run = whole(values.get("run"), 0);
  state.group = values.get("tab") ?? "";
  state.item = whole(values.get("item"), 1) - 1;
  state.label = whole(values.get("class"), null);
  state.error = values.get("error") ?? "";
  const score = Number.parseFloat(values.get("score") ?? "");
  state.score = score >= 0 && score <= 1 ? score : null;
  if (values.get("colors") === "class") state.colors = "class";
  if (values.has("show")) {
    for (const [letter, name] of Object.entries(SHOW))
      state[name] = values.get("show").includes(letter);
  }
  return state;
}

/** The hash of a state; only what differs from the start is in it. */
export function toHash(state) {
  const start = initialState();
  const values = new URLSearchParams();
  if (state.run !== 0) values.set("run", state.run);
  if (state.section === "pictures") {
    if (state.group) values.set("tab", state.group);
    if (state.item > 0) values.set("item", state.item + 1);
    if (state.label !== null) values.set("class", state.label);
    if (state.error) values.set("error", state.error);
    if (state.score !== state.startScore) values.set("score", state.score);
    if (state.colors !== start.colors) values.set("colors", state.colors);
    const names = Object.entries(SHOW);
    if (names.some(([, name]) => state[name] !== start[name])) {
      values.set(
        "show",
        names
          .filter(([, name]) => state[name])
          .map(([letter]) => letter)
          .join(""),
      );
    }
  }
  const query = values.toString();
  return `#${state.section}${query ? `?${query}` : ""}`;
}
