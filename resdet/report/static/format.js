// Numbers and names as a reader sees them.

const COUNT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const FRACTION = new Intl.NumberFormat("en-US", {
  minimumFractionDigits: 3,
  maximumFractionDigits: 3,
});
const PERCENT = new Intl.NumberFormat("en-US", {
  minimumFractionDigits: 1,
  maximumFractionDigits: 1,
});
const FREE = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });
const MINUS = "\u2212";

export const MISSING = "–";

function withMinus(text) {
  return text.replace(/^-/, MINUS);
}

export function count(value) {
  return withMinus(COUNT.format(value));
}

/** A fraction of 1 with three decimals. */
export function fraction(value) {
  return value === null || value === undefined ? MISSING : withMinus(FRACTION.format(value));
}

/** A share, as a percentage with one decimal. */
export function share(value) {
  return `${PERCENT.format(100 * value)} %`;
}

/** A difference, with its sign. */
export function signed(value) {
  if (value === null || value === undefined) return MISSING;
  return (value > 0 ? "+" : "") + fraction(value);
}

/** Any number, to about four digits: an axis or a learning rate. */
export function number(value) {
  if (value === null || value === undefined) return MISSING;
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e7)) {
    return withMinus(value.toExponential(2).replace("e+", "e"));
  }
  return withMinus(FREE.format(value));
}

/** To two decimals, as scores and IoU are shown. */
export function round(value) {
  return Number(value.toFixed(2));
}

/** A score threshold, to three digits as in the words of the report. */
export function threshold(value) {
  return number(Number(value.toPrecision(3)));
}

/** A cell of a table, by its column's format: count, fraction, percent, number or text. */
export function cell(value, format) {
  if (value === null || value === undefined) return MISSING;
  if (typeof value !== "number") return String(value);
  if (format === "count") return count(value);
  if (format === "percent") return withMinus(PERCENT.format(value));
  if (format === "fraction") return fraction(value);
  return number(value);
}

/** "1 picture", "2 pictures". */
export function plural(amount, noun) {
  return `${count(amount)} ${noun}${amount === 1 ? "" : "s"}`;
}

/** The end of a file's name, where numbered names differ. */
export function nameEnd(path) {
  const name =
    path
      .split(/[\\/]/)
      .pop()
      .replace(/\.\w{2,5}$/, "") || path;
  return name.length > 10 ? `…${name.slice(-9)}` : name;
}
