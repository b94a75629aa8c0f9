// The page: an image in, what the model finds out.

import { button, el, field, toggle } from "./dom.js";
import { className } from "./marks.js";
import { createPane, keyOf } from "./pane.js";
import { count, plural, share } from "./format.js";
import { bar, scrollBox } from "./table.js";
import { themeSwitch } from "./theme.js";

const LOWEST = 0.05; // score of the detections that are asked for: the slider shows fewer
const AGAIN_MS = 1500;
const CLASS_COLORS = 14;
const LABELLED = 12; // detections up to which labels are drawn without being asked for

const now = { model: null, file: null, url: null, saved: null, answer: null, score: 0.5, masks: true, labels: true, labelsAreChosen: false };
let running = null; // the request that is not answered yet

const title = el("h1", {}, "resdet");
const facts = el("p", { class: "muted" }, "Asking the server …");
const status = el("p", { class: "status", role: "status" });
const input = el("input", {
  type: "file",
  accept: "image/*,.tif,.tiff,.jp2,.ppm,.pgm",
  "aria-label": "Image file",
  on: { change: () => input.files[0] && send(input.files[0]) },
});
const hint = el("small", {}, "or drop it here, or paste it");
const drop = el("label", { class: "drop" }, input, el("span", {}, el("b", {}, "Choose an image")), hint);
const pane = createPane((view) => pane.setView(view));
const controls = el("div", { class: "controls" });
const side = el("div", { class: "side stack" });
const result = el("div", { class: "result", hidden: true }, el("div", { class: "stack" }, pane.node, controls), side);

/** What the server says is wrong, in its own words where it has some. */
async function problemOf(response) {
  try {
    return (await response.json()).error ?? `status ${response.status}`;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

function say(text, isBad = false) {
  status.textContent = text;
  status.classList.toggle("bad", isBad);
}

/** Asks what is served until the model is loaded. */
async function start() {
  let text = "The server does not answer.";
  try {
    const response = await fetch("model");
    if (response.ok) {
      begin(await response.json());
      return;
    }
    text = `Not ready: ${await problemOf(response)}.`;
  } catch {
    // it may be starting
  }
  facts.textContent = text;
  setTimeout(start, AGAIN_MS);
}

function begin(model) {
  now.model = model;
  now.score = model.score_thresh ?? 0;
  title.textContent = model.name;
  document.title = `${model.name} · resdet`;
  const task = model.task === "detection" ? (model.has_masks ? "objects with masks" : "objects") : "one class per image";
  const classes = model.class_names.length === 1 ? model.class_words[0] : `${count(model.class_names.length)} classes`;
  facts.textContent = `Predicts ${task}: ${classes}. Runs on ${model.device}.`;
  hint.textContent = `or drop it here, or paste it: up to ${count(model.max_upload_bytes / 1e6)} MB and ${count(model.max_pixels / 1e6)} megapixels`;
  if (now.file) send(now.file);
}

/** Sends an image and shows the answer; a newer image replaces one that is being predicted. */
async function send(file) {
  now.file = file;
  if (!now.model) {
    say("The image is sent when the model is loaded.");
    return;
  }
  running?.abort();
  const own = new AbortController();
  running = own;
  result.classList.add("busy");
  say(`Predicting ${file.name || "the pasted image"} …`);
  const started = performance.now();
  try {
    const query = new URLSearchParams({ masks: "polygons" });
    if (now.model.task === "detection") {
      const lowest = Math.max(now.model.lowest_score, Math.min(LOWEST, now.score));
      query.set("score_thresh", lowest);
    }
    const response = await post(file, query, "application/json", own.signal);
    if (!response.ok) throw new Error(await problemOf(response));
    const answer = await response.json();
    const url = await displayable(file, own.signal);
    if (running !== own) return;
    show(file, answer, url, performance.now() - started);
  } catch (error) {
    if (running !== own) return;
    result.classList.remove("busy");
    result.hidden = true;
    drop.classList.remove("compact");
    say(error instanceof TypeError ? "The server does not answer." : error.message, true);
  }
}

function post(file, query, accept, signal) {
  return fetch(`predict?${query}`, {
    method: "POST",
    body: file,
    headers: { "content-type": file.type || "application/octet-stream", accept },
    signal,
  });
}

/** An address of the image; where the browser cannot show it, of the server's picture of it. */
async function displayable(file, signal) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return url;
  } catch {
    URL.revokeObjectURL(url);
    if (now.model.task !== "detection") return null;
    const query = new URLSearchParams({ score_thresh: 1 });
    const drawn = await post(file, query, "image/png", signal);
    return drawn.ok ? URL.createObjectURL(await drawn.blob()) : null;
  }
}

function show(file, answer, url, milliseconds) {
  for (const old of [now.url, now.saved]) if (old) URL.revokeObjectURL(old);
  const saved = URL.createObjectURL(new Blob([JSON.stringify(answer)], { type: "application/json" }));
  Object.assign(now, { answer, url, saved });
  now.picture = {
    name: file.name || "the pasted image",
    width: answer.width,
    height: answer.height,
    original: [answer.height, answer.width],
    url,
  };
  now.marks = (answer.detections ?? []).map((each, row) => ({
    mark: {
      box: each.box,
      label: each.label,
      score: each.score,
      status: "",
      iou: null,
      path: pathOf(each.polygons ?? []),
    },
    row,
    isTruth: false,
    inFocus: false,
  }));
  now.seconds = milliseconds / 1000;
  const above = now.marks.filter(({ mark }) => mark.score > now.score);
  if (!now.labelsAreChosen) now.labels = above.length <= LABELLED;
  result.hidden = false;
  result.classList.remove("busy");
  drop.classList.add("compact");
  fillControls();
  drawMarks(false);
}

/** Rings of points as the data of an SVG path. */
function pathOf(rings) {
  return rings.map((ring) => `M${ring.map(([x, y]) => `${x} ${y}`).join("L")}Z`).join("");
}

function fillControls() {
  const { model, answer } = now;
  const save = el("a", { download: "prediction.json", href: now.saved }, "Save the JSON");
  if (!answer.detections) {
    controls.replaceChildren(save);
    return;
  }
  const shown = el("output", {}, now.score.toFixed(2));
  const slider = el("input", {
    type: "range",
    min: 0,
    max: 1,
    step: 0.01,
    value: now.score,
    on: {
      input: () => {
        now.score = Number(slider.value);
        shown.textContent = now.score.toFixed(2);
        drawMarks(true);
      },
    },
  });
  const change = (name) => (checked) => {
    now[name] = checked;
    now.labelsAreChosen ||= name === "labels";
    drawMarks(true);
  };
  controls.replaceChildren(
    field("Scores above ", slider, shown),
    ...(model.has_masks ? [toggle("Masks", now.masks, change("masks"))] : []),
    toggle("Labels", now.labels, change("labels")),
    button("Whole image", () => pane.setView({ x: 0, y: 0, w: answer.width, h: answer.height })),
    save,
  );
}

function drawMarks(keepView) {
  const { answer, model } = now;
  const took = `${now.seconds.toFixed(1)} s`;
  const warning = answer.warning ? ` Warning: ${answer.warning}` : "";
  const marks = now.marks.filter(({ mark }) => mark.score > now.score);
  const view = { masks: now.masks, labels: now.labels, colors: "class" };
  pane.show(now.picture, marks, view, model.class_words, keepView);
  if (answer.classes) {
    say(`${answer.classes[0]?.words ?? "No class"} (${took}).${warning}`);
    side.replaceChildren(classTable(answer.classes));
    return;
  }
  say(`${plural(marks.length, "detection")} above ${now.score.toFixed(2)} (${took}).${warning}`);
  side.replaceChildren(marks.length > 0 ? markTable(marks) : el("p", { class: "muted" }, "Lower the score to see more."));
}

function tableOf(label, heads, rows) {
  const head = heads.map((name, i) => el("th", { scope: "col", class: i > 0 ? "number" : null }, name));
  const node = el("table", { "aria-label": label }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));
  return el("div", { class: "table" }, scrollBox(label, node));
}

function classTable(classes) {
  const rows = classes.map(({ words, score }) =>
    el("tr", {}, el("th", { scope: "row" }, words), el("td", { class: "number with-bar" }, bar(score, 1), share(score))),
  );
  return tableOf("Classes", ["Class", "Score"], rows);
}

/** One row per detection; the one under the pointer or with the focus is lit in the image. */
function markTable(marks) {
  const rows = marks.map((each) => {
    const { box, label, score } = each.mark;
    const light = (key) => () => pane.highlight(key);
    const on = {
      pointerenter: light(keyOf(each)),
      pointerleave: light(null),
      focusin: light(keyOf(each)),
      focusout: light(null),
    };
    const zoom = button(className(now.model.class_words, label), () => zoomTo(box), { class: "link" });
    return el(
      "tr",
      { on },
      el("th", { scope: "row" }, el("span", { class: `dot class-${label % CLASS_COLORS}` }), zoom),
      el("td", { class: "number" }, score.toFixed(2)),
      el("td", { class: "number" }, `${Math.round(box[2] - box[0])} × ${Math.round(box[3] - box[1])}`),
    );
  });
  return tableOf("Detections", ["Class", "Score", "Pixels"], rows);
}

function zoomTo([x1, y1, x2, y2]) {
  const { width, height } = now.picture;
  const side = 1.6 * Math.max(x2 - x1, ((y2 - y1) * width) / height, width / 40);
  const h = (side * height) / width;
  pane.setView({ x: (x1 + x2 - side) / 2, y: (y1 + y2 - h) / 2, w: side, h });
}

/** Dropping works on the whole page. */
function addDropping() {
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) send(file);
    else say("What was dropped is not a file; drop an image.", true);
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) send(file);
  });
}

function programs() {
  const { origin } = location;
  const lines = [
    `curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' ${origin}/predict`,
    `curl -F image=@photo.jpg '${origin}/predict?masks=rle&score_thresh=0.3'`,
    `curl -F image=@photo.jpg '${origin}/predict?draw' -o drawn.png`,
  ];
  return el(
    "section",
    { "aria-labelledby": "programs-title" },
    el("h2", { id: "programs-title" }, "From a program"),
    el("pre", { tabindex: "0", "aria-label": "Commands" }, lines.join("\n")),
    el(
      "p",
      { class: "note" },
      "The schema is ",
      el("a", { href: "openapi.json" }, "openapi.json"),
      "; numbers for Prometheus are ",
      el("a", { href: "metrics" }, "metrics"),
      ".",
    ),
  );
}

document.body.append(
  el("header", { class: "single-head" }, el("div", {}, title, facts), el("div", { class: "switches" }, themeSwitch())),
  el(
    "div",
    { class: "page single" },
    el(
      "main",
      {},
      el(
        "section",
        { "aria-labelledby": "image-title" },
        el("h2", { id: "image-title" }, "Image"),
        drop,
        status,
        result,
      ),
      programs(),
    ),
  ),
);
addDropping();
start();
