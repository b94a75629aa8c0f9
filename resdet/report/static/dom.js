// Building elements. Text goes in as text nodes only: nothing of a report is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";
let lastId = 0;

/** An id that no other element has. */
export function uniqueId(stem) {
  lastId += 1;
  return `${stem}-${lastId}`;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    } else if (name === "style") {
      for (const [property, text] of Object.entries(value)) node.style.setProperty(property, text);
    } else if (name in { value: 1, checked: 1, selected: 1, disabled: 1, hidden: 1 }) {
      node[name] = value;
    } else {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element; `on` are listeners, `style` CSS properties, null and false attributes absent. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Calls `draw(width)` now and whenever the width of `host` changes. */
export function atEachWidth(host, draw) {
  let drawn = 0;
  new ResizeObserver(() => {
    const width = Math.floor(host.clientWidth);
    if (width > 0 && width !== drawn) {
      drawn = width;
      draw(width);
    }
  }).observe(host);
}

/** A control with its label; what follows the label's words is no part of the control's name. */
export function field(label, control, ...beside) {
  control.id = uniqueId("field");
  return el(
    "div",
    { class: "field" },
    el("div", {}, el("label", { for: control.id }, label), beside),
    control,
  );
}

/** A labelled `<select>`; `options` are [value, text]. */
export function choice(label, options, value, onChange) {
  const select = el(
    "select",
    { on: { change: (event) => onChange(event.target.value) } },
    options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)),
  );
  return field(label, select);
}

/** A labelled checkbox. */
export function toggle(label, checked, onChange, key = null) {
  const box = el("input", {
    type: "checkbox",
    checked,
    "aria-keyshortcuts": key,
    on: { change: (event) => onChange(event.target.checked) },
  });
  return el(
    "label",
    { class: "toggle" },
    box,
    label,
    key && el("kbd", { "aria-hidden": "true" }, key),
  );
}

/** A disclosure whose content is built when it is first opened. */
export function disclosure(summary, build) {
  const details = el("details", { class: "more" }, el("summary", {}, summary));
  details.addEventListener(
    "toggle",
    () => {
      if (details.open) details.append(build());
    },
    { once: true },
  );
  return details;
}

/** A button. */
export function button(text, onClick, attributes = {}) {
  return el("button", { type: "button", ...attributes, on: { click: onClick } }, text);
}

/** Scrolls `box` so that `child` is seen, and never the page. */
export function scrollInto(box, child) {
  const [outer, inner] = [box.getBoundingClientRect(), child.getBoundingClientRect()];
  if (inner.top < outer.top) box.scrollTop += inner.top - outer.top - 8;
  if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom + 8;
  if (inner.left < outer.left) box.scrollLeft += inner.left - outer.left - 8;
  if (inner.right > outer.right) box.scrollLeft += inner.right - outer.right + 8;
}
