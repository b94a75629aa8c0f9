"""What is odd about images, by their looks: too dark, blurred, of another kind, shown before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resdet.data.alike import Pairs, find_alike
from resdet.data.looks import Looks
from resdet.data.plausibility import LEAKED, Images
from resdet.files.findings import SHOWN, Finding

DARK, BRIGHT = 64.0, 200.0
"""Luminances that 99 % of the pixels of a dark image do not reach, and of a bright one pass."""

UNLIKE = 0.5
"""Share of the median of the set below which light is unlike it: all images of a fluorescence
microscope are dark."""

DEVIATIONS = 4.0
"""Robust deviations from the median, of logarithms, by which light has to be unlike it as well."""

FLAT = 2.0
"""Deviation of the luminance, 0..255, below which an image shows nothing."""

SOFT, SOFTER = 0.65, 0.12
"""Share of the Laplacian's deviation that a further blur leaves of a blurred image (sharp photos
have .1 to .4, those of a microscope to .6), and by how much it passes the set's median."""

FAR = 16.0
"""Times the median area of the set, or a part of it, from which an image has an odd size."""

LONG = 3.0
"""Long over short side from which an image has an odd shape, unless half of that is usual."""

RARE = 0.05
"""Share of the images that may be unlike the others: more of them are another usual kind."""

GRAY, COLOURED = 2.0, 6.0
"""Mean difference of the channels, 0..255, up to which an image is gray, or from which it has
colours."""

LOOK_AT_IT = "it is used; look at it, and remove it if it shows nothing"
ALIKE = "both are used; keep one of them, or make sure that they stay in one part"
SIZES = "it is used; check that it belongs to the set"
KINDS = "they are used; make sure that the images to predict are of these kinds too"


def find_odd_images(images: Images, looks: Looks) -> list[Finding]:
    """A finding for each image that is unlike the others of its set.

    Args:
        looks: (N,) of the same images.
    """
    if not len(looks):
        return []
    high, low = looks["high"], looks["low"]
    dark = (high < DARK) & _far_below(high)
    bright = (low > BRIGHT) & _far_below(255 - low)
    flat = (looks["spread"] < FLAT) & ~dark & ~bright
    soft, sharpness = looks["softness"], looks["sharpness"]
    blurred = (soft > SOFT) & (soft > np.median(soft) + SOFTER) & ~dark & ~bright & ~flat
    blurred &= sharpness < UNLIKE * np.median(sharpness)
    findings = []
    for which, what, measure, values in (
        (dark, "is very dark", "brightest percent of the pixels", high),
        (bright, "is very bright", "darkest percent of the pixels", low),
        (flat, "has hardly any contrast", "deviation of the luminance", looks["spread"]),
        (blurred, "is blurred", "variance of the Laplacian", sharpness),
    ):
        usual = f"the median image {np.median(values):.3g}"
        for row in np.flatnonzero(which).tolist():
            words = f"{what} ({measure}: {values[row]:.3g}, {usual})"
            findings.append(Finding(images.file, images.name_of(row), words, LOOK_AT_IT))
    pale = dark | bright | flat
    return findings + _odd_sizes(images, looks) + _odd_colours(images, looks, pale)


def _far_below(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) which numbers are far below the median, as the spread of the others goes."""
    logs = np.log(values + 1)
    middle = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - middle))  # a deviation, were they normal
    far: NDArray[np.bool_] = logs < middle - max(-np.log(UNLIKE), DEVIATIONS * spread)
    return far


def _odd_sizes(images: Images, looks: Looks) -> list[Finding]:
    height, width = looks["height"].astype(np.float64), looks["width"].astype(np.float64)
    area, usual = height * width, float(np.median(height * width))
    far = (area > FAR * usual) | (area * FAR < usual)
    ratio = np.maximum(height, width) / np.maximum(np.minimum(height, width), 1)
    long = (ratio >= LONG) & (ratio > 2 * np.median(ratio))
    findings = []
    for which, what in (
        (far, f"and the median image has {usual:,.0f}"),
        (long & ~far, f"and the median image is {np.median(ratio):.2g} times as long as short"),
    ):
        if which.sum() > RARE * len(which):
            continue
        for row in np.flatnonzero(which).tolist():
            size = f"{looks['width'][row]}×{looks['height'][row]}"
            findings.append(
                Finding(
                    images.file, images.name_of(row), f"has the odd size {size} ({what})", SIZES
                )
            )
    return findings


def _odd_colours(images: Images, looks: Looks, pale: NDArray[np.bool_]) -> list[Finding]:
    """Gray images among coloured ones, or the other way round; `pale` (N,) are neither."""
    gray = (looks["chroma"] < GRAY) & ~pale
    coloured = looks["chroma"] > COLOURED
    for which, others, what in (
        (gray, coloured, "are gray, and the others have colours"),
        (coloured, gray, "have colours, and the others are gray"),
    ):
        if 0 < which.sum() <= RARE * len(which) and others.sum() >= 0.5 * len(which):
            return [Finding(images.file, _named(images, np.flatnonzero(which)), what, KINDS)]
    return []


def find_alike_images(
    sets: Sequence[tuple[Images, Looks]], classes: Sequence[NDArray[np.int64]] | None = None
) -> list[Finding]:
    """Findings for images that show the same, within a set and across the two of training and
    validation. Files of two sets that are equal byte for byte are `find_shared`'s.

    Args:
        sets: that of training, and that of validation where there is one, with (N,) looks each.
        classes: (N,) of each set's images, where an image has one: equal images of two classes are
            worth a finding of their own.
    """
    pairs = find_alike(np.concatenate([looks for _, looks in sets]))
    counts = [len(looks) for _, looks in sets]
    labels = None if classes is None else np.concatenate(list(classes))
    findings = []
    for number, (images, _) in enumerate(sets):
        start = sum(counts[:number])
        own = (pairs.first >= start) & (pairs.second < start + counts[number])
        findings += _within(images, pairs, np.flatnonzero(own), start, labels)
    if len(sets) == 2:
        across = (pairs.first < counts[0]) & (pairs.second >= counts[0]) & ~pairs.equal
        if across.any():
            train, val = sets[0][0], sets[1][0]
            named = _named(val, pairs.second[across] - counts[0])
            partner = train.name_of(int(pairs.first[across][0]))
            what = f"show the same as images of {train.file} (the first as {partner})"
            findings.append(Finding(val.file, named, what, LEAKED))
    return findings


def _within(
    images: Images,
    pairs: Pairs,
    which: NDArray[np.int64],
    start: int,
    labels: NDArray[np.int64] | None,
) -> list[Finding]:
    """Of one set, whose first row is `start`. The same file listed twice is `find_repeated`'s."""
    keys = images.keys() if len(which) else np.zeros(0, np.int64)
    findings = []
    for row in which.tolist():
        first, second = int(pairs.first[row]), int(pairs.second[row])
        if keys[first - start] == keys[second - start]:
            continue
        other = images.name_of(first - start)
        what = f"{'is byte for byte' if pairs.equal[row] else 'shows the same as'} {other}"
        remedy = ALIKE
        if labels is not None and labels[first] != labels[second]:
            what = f"{what}, and has another class"
            remedy = "both are used; correct the class of one, or remove both"
        findings.append(Finding(images.file, images.name_of(second - start), what, remedy))
    return findings


def _named(images: Images, rows: NDArray[np.int64]) -> str:
    """How many of the images, and the first few."""
    names = ", ".join(images.name_of(row) for row in rows[:SHOWN].tolist())
    more = ", …" if len(rows) > SHOWN else ""
    return f"{len(rows)} of {len(images.names)} images ({names}{more})"
