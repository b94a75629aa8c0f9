// From values to pixels.

/** A function that maps [low, high] onto [start, end]. */
export function linear(low, high, start, end) {
  const slope = high === low ? 0 : (end - start) / (high - low);
  return (value) => start + (value - low) * slope;
}

/** A step of 1, 2, 2.5 or 5 times a power of ten that divides `span` into about `parts`. */
function niceStep(span, parts) {
  const raw = span / Math.max(1, parts);
  const power = 10 ** Math.floor(Math.log10(raw));
  const factor = [1, 2, 2.5, 5, 10].find((each) => each * power >= raw * 0.999);
  return factor * power;
}

/** Round values from `low` to `high`, about `parts` of them. */
export function ticks(low, high, parts) {
  if (!(high > low)) return [low];
  const step = niceStep(high - low, parts);
  const first = Math.ceil(low / step - 1e-6);
  const last = Math.floor(high / step + 1e-6);
  return Array.from({ length: last - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  );
}

/** [low, high] widened to round values. */
export function niceRange(low, high, parts) {
  if (!Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  if (low === high) return low === 0 ? [0, 1] : [Math.min(0, low), Math.max(0, high)];
  const step = niceStep(high - low, parts);
  return [Math.floor(low / step + 1e-6) * step, Math.ceil(high / step - 1e-6) * step];
}

/** Smallest and largest finite value. */
export function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null || !Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** Path data through points (x, y), broken where y is null. */
export function linePath(xs, ys, scaleX, scaleY) {
  let data = "";
  let pen = "M";
  for (let i = 0; i < xs.length; i += 1) {
    if (ys[i] === null) {
      pen = "M";
      continue;
    }
    data += `${pen}${scaleX(xs[i]).toFixed(1)} ${scaleY(ys[i]).toFixed(1)}`;
    pen = "L";
  }
  return data;
}

/** Index of the value in ascending `sorted` that is nearest to `value`. */
export function nearest(sorted, value) {
  let low = 0;
  let high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - sorted[low - 1] <= sorted[low] - value ? low - 1 : low;
}
