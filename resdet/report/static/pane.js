// One picture with its marks drawn over it, which can be zoomed and moved.

import { el, svg } from "./dom.js";
import { className, colorClass, describeMark, pictureWords } from "./marks.js";

const MAX_ZOOM = 16;
const LABEL_SIZE = 12; // pixels of the screen

const urls = new Map();

/** An address of the picture for <image>: its own, or one of its JPEG, made once. */
function pictureUrl(picture) {
  if (picture.url) return picture.url;
  if (!picture.jpeg) return null;
  if (!urls.has(picture)) {
    const bytes = Uint8Array.from(atob(picture.jpeg), (letter) => letter.charCodeAt(0));
    urls.set(picture, URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })));
  }
  return urls.get(picture);
}

function pictureImage(picture) {
  const { width, height } = picture;
  const href = pictureUrl(picture);
  if (href) return svg("image", { href, width, height });
  return svg(
    "g",
    {},
    svg("rect", { class: "no-picture", width, height }),
    svg(
      "text",
      {
        class: "no-picture-text",
        x: width / 2,
        y: height / 2,
        "text-anchor": "middle",
        "font-size": width / 18,
      },
      "no picture stored",
    ),
  );
}

/** The outline of a mark: its mask where masks are shown, else its box; twice, for any background. */
function outline({ mark, isTruth, inFocus }, masks, colors) {
  const [x1, y1, x2, y2] = mark.box;
  const box = () =>
    svg("rect", { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) });
  const shape =
    masks && mark.path ? () => svg("path", { d: mark.path, "fill-rule": "evenodd" }) : box;
  const kind = `outline ${isTruth ? "truth" : "detection"}${inFocus ? " focus" : ""}${masks && mark.path ? " mask" : ""}`;
  const [under, over] = [shape(), shape()];
  under.setAttribute("class", "under");
  over.setAttribute("class", "over");
  return svg("g", { class: `${kind} ${colorClass(mark, colors)}` }, under, over);
}

/** A small picture: the item's marks with what is around them, or all of it. */
export function thumbnail(picture, marks, box) {
  const view = box ?? { x: 0, y: 0, w: picture.width, h: picture.height };
  return svg(
    "svg",
    {
      class: "thumbnail",
      viewBox: `${view.x} ${view.y} ${view.w} ${view.h}`,
      preserveAspectRatio: "xMidYMid slice",
      "aria-hidden": "true",
    },
    pictureImage(picture),
    marks.map((each) => outline({ ...each, inFocus: false }, true, "outcome")),
  );
}

/** A pane: `node`, `show(picture, marks, state, names)`, `setView(view)`, `view()`, `highlight(row)`. */
export function createPane(onView) {
  const layer = svg("g");
  const back = svg("g");
  const node = svg("svg", { class: "picture", role: "img" }, back, layer);
  const tip = el("div", { class: "tip", hidden: true });
  const host = el("div", { class: "pane" }, node, tip);
  const now = { picture: null, view: null, marks: [], state: null, names: [] };

  const setView = (view) => {
    const { width, height } = now.picture;
    const w = Math.min(width, Math.max(width / MAX_ZOOM, view.w));
    const h = (w * height) / width;
    const x = Math.min(width - w, Math.max(0, view.x));
    const y = Math.min(height - h, Math.max(0, view.y));
    now.view = { x, y, w, h };
    node.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
    host.classList.toggle("zoomed", w < width);
    placeLabels();
  };

  const placeLabels = () => {
    const scale = now.view.w / Math.max(1, node.clientWidth);
    for (const text of layer.querySelectorAll("text")) {
      text.setAttribute("font-size", LABEL_SIZE * scale);
      text.setAttribute("stroke-width", 3 * scale);
      // above its box, or below the edge of what is seen
      const top = Number(text.dataset.top) - 4 * scale;
      const isAbove =
        top - LABEL_SIZE * scale < now.view.y &&
        Number(text.dataset.top) > now.view.y - LABEL_SIZE * scale;
      text.setAttribute("y", isAbove ? now.view.y + LABEL_SIZE * scale : top);
    }
  };
  new ResizeObserver(() => now.view && placeLabels()).observe(node);

  const drawMarks = () => {
    const anyFocus = now.marks.some((each) => each.inFocus);
    layer.replaceChildren(
      ...[...now.marks]
        .sort((a, b) => a.inFocus - b.inFocus)
        .map((each) => {
          const group = outline(each, now.state.masks, now.state.colors);
          if (anyFocus && !each.inFocus) group.classList.add("aside");
          group.dataset.key = keyOf(each);
          if (now.state.labels || each.inFocus) group.append(labelOf(each, now.names));
          return group;
        }),
    );
    placeLabels();
  };

  node.addEventListener("pointermove", (event) => {
    const group = event.target.closest(".outline");
    tip.hidden = !group;
    if (!group) return;
    const found = now.marks.find((each) => keyOf(each) === group.dataset.key);
    if (found) tip.textContent = describeMark(found.mark, found.isTruth, now.names);
    const { left, top, width } = host.getBoundingClientRect();
    tip.style.setProperty(
      "left",
      `${Math.max(0, Math.min(event.clientX - left + 14, width - tip.offsetWidth))}px`,
    );
    tip.style.setProperty("top", `${event.clientY - top + 14}px`);
  });
  node.addEventListener("pointerleave", () => {
    tip.hidden = true;
  });
  addMoving(node, () => now.view, onView);

  return {
    node: host,
    show(picture, marks, state, names, keepView) {
      Object.assign(now, { marks, state, names });
      node.setAttribute("aria-label", pictureWords(picture, marks));
      if (now.picture !== picture) {
        now.picture = picture;
        node.style.setProperty("--ratio", picture.width / picture.height);
        back.replaceChildren(pictureImage(picture));
        keepView = false;
      }
      if (!keepView) setView({ x: 0, y: 0, w: picture.width, h: picture.height });
      drawMarks();
    },
    setView,
    view: () => now.view,
    highlight(key) {
      for (const group of layer.children) group.classList.toggle("lit", group.dataset.key === key);
    },
  };
}

/** A name for a mark within its picture. */
export function keyOf({ row, isTruth }) {
  return `${isTruth ? "t" : "d"}${row}`;
}

function labelOf({ mark }, names) {
  const score = mark.score === null ? "" : ` ${mark.score.toFixed(2)}`;
  return svg(
    "text",
    { x: mark.box[0], "data-top": mark.box[1] },
    `${className(names, mark.label)}${score}`,
  );
}

/** Zooming by ctrl and wheel or double click, moving by dragging. */
function addMoving(node, view, onView) {
  let drag = null;
  const around = (event, factor) => {
    const { left, top, width, height } = node.getBoundingClientRect();
    const { x, y, w, h } = view();
    const fx = (event.clientX - left) / width;
    const fy = (event.clientY - top) / height;
    onView({
      x: x + fx * w * (1 - factor),
      y: y + fy * h * (1 - factor),
      w: w * factor,
      h: h * factor,
    });
  };
  node.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      around(event, event.deltaY > 0 ? 1.2 : 1 / 1.2);
    },
    { passive: false },
  );
  node.addEventListener("dblclick", (event) => around(event, event.shiftKey ? 2 : 0.5));
  node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = { x: event.clientX, y: event.clientY, view: view() };
    node.setPointerCapture(event.pointerId);
  });
  node.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const scale = drag.view.w / node.clientWidth;
    onView({
      ...drag.view,
      x: drag.view.x - (event.clientX - drag.x) * scale,
      y: drag.view.y - (event.clientY - drag.y) * scale,
    });
  });
  for (const end of ["pointerup", "pointercancel"]) {
    node.addEventListener(end, () => {
      drag = null;
    });
  }
}
