// The page: header, menu, sections; the state in the address; keys.

import { el } from "./dom.js";
import { createGallery, groupsOf } from "./gallery.js";
import { sectionsOf } from "./sections.js";
import { parseHash, toHash } from "./state.js";
import { themeSwitch } from "./theme.js";

const KEYS = [
  ["← →", "previous, next picture"],
  ["g", "ground truth"],
  ["d", "detections"],
  ["m", "masks"],
  ["l", "labels"],
  ["+ −", "zoom"],
  ["z", "zoom to the object"],
  ["0", "whole picture"],
];

const report = JSON.parse(document.getElementById("report-data").textContent);
const page = { state: parseHash(location.hash), gallery: null, keysOn: true };
const main = el("main", { id: "content", tabindex: "-1" });
const menu = el("ul");

/** Puts the state into the address, as a new entry of the history or in place of the last. */
function storeState(isNew = false) {
  try {
    history[isNew ? "pushState" : "replaceState"](null, "", toHash(page.state));
  } catch {
    // a page within another may not change its address
  }
}

function showSection(id, behavior) {
  const section = document.getElementById(id);
  section?.scrollIntoView({ behavior });
  section?.focus({ preventScroll: true });
}

/** Goes to a section without losing what the address says of the pictures. */
function goTo(id) {
  page.state.section = id;
  storeState(true);
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  showSection(id, isCalm ? "auto" : "smooth");
}

function openPictures(changes) {
  page.gallery.open(changes);
  goTo("pictures");
}

function drawRun() {
  const { state } = page;
  if (!report.runs[state.run]) state.run = 0;
  const hasPictures = groupsOf(report, state.run).length > 0;
  page.gallery = hasPictures ? createGallery({ report, state, onState: () => storeState() }) : null;
  const sections = sectionsOf({
    report,
    state,
    gallery: page.gallery && [page.gallery.node, keyHelp()],
    open: openPictures,
  });
  main.replaceChildren(
    ...sections.map(({ id, title, content }) =>
      el(
        "section",
        { id, tabindex: "-1", "aria-labelledby": `${id}-title` },
        el("h2", { id: `${id}-title` }, title),
        content,
      ),
    ),
  );
  menu.replaceChildren(
    ...sections.map(({ id, title }) => {
      const follow = (event) => {
        event.preventDefault();
        goTo(id);
      };
      return el("li", {}, el("a", { href: `#${id}`, on: { click: follow } }, title));
    }),
  );
  page.gallery?.settle();
  markCurrent();
}

/** The keys, which can be switched off where they collide with those of assistive software. */
function keyHelp() {
  const box = el("input", {
    type: "checkbox",
    checked: page.keysOn,
    on: {
      change: (event) => {
        page.keysOn = event.target.checked;
      },
    },
  });
  return el(
    "details",
    { class: "more keys" },
    el("summary", {}, "Keys"),
    el(
      "dl",
      {},
      KEYS.map(([keys, words]) =>
        el("div", {}, el("dt", {}, el("kbd", {}, keys)), el("dd", {}, words)),
      ),
    ),
    el("label", { class: "toggle" }, box, "Use these keys"),
  );
}

function runSwitch() {
  if (report.runs.length < 2) return null;
  const choose = (run) => {
    Object.assign(page.state, { run, group: "", item: 0, label: null, error: "", score: null });
    drawRun();
    storeState();
  };
  return el(
    "fieldset",
    { class: "segments runs" },
    el("legend", {}, "Run"),
    report.runs.map(({ name }, i) =>
      el(
        "label",
        { title: name },
        el("input", {
          type: "radio",
          name: "run",
          value: String(i),
          checked: i === page.state.run,
          on: { change: () => choose(i) },
        }),
        el("span", {}, name),
      ),
    ),
  );
}

let watcher = null;

/** Keeps the menu's entry of the section in view marked. */
function markCurrent() {
  watcher?.disconnect();
  watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        for (const link of menu.querySelectorAll("a")) {
          if (link.hash === `#${target.id}`) link.setAttribute("aria-current", "true");
          else link.removeAttribute("aria-current");
        }
      }
    },
    { rootMargin: "-15% 0px -80% 0px" },
  );
  for (const section of main.children) watcher.observe(section);
}

/** Whether a key belongs to the control that has the focus. */
function isTaken(target, key) {
  if (!(target instanceof Element)) return false;
  if (target.matches("select, textarea, input[type=search], [role=slider]")) return true;
  return (
    key.startsWith("Arrow") &&
    target.matches("input[type=range], input[type=radio], .scroll, [role=tab]")
  );
}

function onKey(event) {
  if (!page.keysOn || !page.gallery || event.defaultPrevented) return;
  if (event.ctrlKey || event.metaKey || event.altKey || isTaken(event.target, event.key)) return;
  if (page.gallery.press(event.key)) event.preventDefault();
}

function onHash() {
  page.state = parseHash(location.hash);
  drawRun();
  for (const input of document.querySelectorAll("input[name=run]"))
    input.checked = Number(input.value) === page.state.run;
  showSection(page.state.section, "auto");
}

function toContent(event) {
  event.preventDefault();
  main.focus();
}

function start() {
  document.body.replaceChildren(
    el("a", { class: "skip", href: "#content", on: { click: toContent } }, "Skip to the content"),
    el(
      "header",
      {},
      el("div", {}, el("h1", {}, report.title), el("p", { class: "muted" }, report.created)),
      el("div", { class: "switches" }, themeSwitch()),
    ),
    el("div", { class: "page" }, el("nav", { "aria-label": "Sections" }, runSwitch(), menu), main),
  );
  drawRun();
  showSection(page.state.section, "auto");
  addEventListener("hashchange", onHash);
  addEventListener("keydown", onKey);
}

start();
