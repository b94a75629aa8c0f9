"""RoI max pooling on a CPU as maxima of windows of cells whose sides are powers of two.

The maximum over any rectangle is that of four windows 2^a × 2^b that cover it, which may overlap:
a sparse table for range minimum queries (Bender & Farach-Colton 2000), along both axes. The windows
at all positions of the map are one elementwise maximum of two smaller ones, and with the channels
last a bin is the maximum of four rows of adjacent numbers. All of it runs in the processor's vector
units, while torchvision's kernel compares one number at a time.

For gradients, a number and its place in the map are packed into one integer, whose maximum is the
largest number and, among equal ones, the first place.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TABLE_BYTES = 1 << 24
"""Windows are computed for as many channels at a time as fit into this, so that they stay in the
processor's cache."""
PART_BYTES = 1 << 21
"""Bins are computed, and their gradients added, in parts of this size, for the same reason."""
LARGEST = torch.iinfo(torch.int32).max
SIDES = 2 ** torch.arange(16)
"""Sides of windows, in cells."""
LOW, HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)
"""Halves of a 64-bit integer, as two of 32 bits."""


@dataclass
class _Bins:
    """All bins of the regions of one level, and the windows that cover them."""

    rows: Tensor
    """(n,) int64: positions among the bins of all levels."""
    corners: list[Tensor]
    """Four times (n,) int64: windows, as rows of the table."""
    windows: list[tuple[int, int, int, int]]
    """Sizes of the windows in the table: the exponents (a, b) of their rows and columns, and how
    many positions they have down and across. After them comes one row for bins without cells."""


def pool_windows(
    features: Sequence[Tensor],
    levels: Tensor,
    boxes: Tensor,
    images: Tensor,
    scales: Sequence[float],
    size: int,
) -> Tensor:
    """As `pool_maxima`, from maps in float32, bfloat16 or float16 and finite `boxes` in float32.

    A cell that is not a number makes its bins so.
    """
    bins: list[_Bins] = []
    for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        own = (levels == level).nonzero()[:, 0]
        bins.append(_bins(own, boxes[own] * scale, images[own], feature.shape, size))
    tables = [feature.permute(0, 2, 3, 1) for feature in features]
    pooled: Tensor = _Maxima.apply(bins, *tables)  # type: ignore[no-untyped-call]
    return pooled.view(len(boxes), size, size, pooled.shape[1]).permute(0, 3, 1, 2)


def _bins(own: Tensor, boxes: Tensor, images: Tensor, shape: torch.Size, size: int) -> _Bins:
    """The bins of the regions at positions `own` (n,), with `boxes` (n, 4) in cells of `images`
    (n,), in a map of `shape` (B, C, H, W)."""
    batch, _, height, width = shape
    cells = _round(boxes)
    left, right = _edges(cells[:, 0], cells[:, 2], width, size)
    top, bottom = _edges(cells[:, 1], cells[:, 3], height, size)
    tall, wide = _exponents(bottom - top), _exponents(right - left)
    windows, first, start = [], torch.zeros(len(SIDES), len(SIDES), dtype=torch.int64), 0
    for b in range(1 + int(wide.amax()) if len(own) else 0):
        for a in range(1 + int(tall.amax())):
            down, across = height - 2**a + 1, width - 2**b + 1
            windows.append((a, b, down, across))
            first[a, b] = start
            start += batch * down * across
    # (n, size, size): from here on by bin, not by edge
    rows, columns = height - SIDES[tall] + 1, width - SIDES[wide] + 1
    image = images.long()[:, None, None] * rows[:, :, None] * columns[:, None, :]
    image += first[tall[:, :, None], wide[:, None, :]]
    is_empty = (bottom <= top)[:, :, None] | (right <= left)[:, None, :]
    corners = [
        torch.where(
            is_empty, start, image + y[:, :, None] * columns[:, None, :] + x[:, None, :]
        ).flatten()
        for y in (top, bottom - SIDES[tall])
        for x in (left, right - SIDES[wide])
    ]
    number = (own[:, None] * size**2 + torch.arange(size**2)).flatten()
    return _Bins(number, corners, windows)


def _round(x: Tensor) -> Tensor:
    """To whole numbers, halves away from 0, as C's `round`."""
    whole = x.trunc()
    return whole + x.sign() * ((x - whole).abs() >= 0.5)


def _edges(start: Tensor, end: Tensor, cells: int, size: int) -> tuple[Tensor, Tensor]:
    """First cells (n, size) of the bins of an axis, and one past their last."""
    # in float32, whose rounding of number · bin_size moves an edge now and then
    bin_size = (end - start + 1).clamp(min=1) / size
    number = torch.arange(size, dtype=bin_size.dtype)
    first = torch.floor(number * bin_size[:, None]) + start[:, None]
    stop = torch.ceil((number + 1) * bin_size[:, None]) + start[:, None]
    return first.clamp(0, cells).long(), stop.clamp(0, cells).long()


def _exponents(sides: Tensor) -> Tensor:
    """Of the largest power of two that is not above each of `sides`; 0 for empty ones."""
    return (torch.searchsorted(SIDES, sides, right=True) - 1).clamp(min=0)


class _Maxima(torch.autograd.Function):
    """The bins (num_bins, C) of all levels' maps, (B, H, W, C) each; gradients go back there.

    A cell's gradient is a sum over the bins whose maximum it is, in a fixed order.
    """

    @staticmethod
    def forward(ctx: Any, bins: list[_Bins], *maps: Tensor) -> Tensor:
        ctx.like = [(each.shape, each.dtype) for each in maps]
        ctx.rows, ctx.places = [own.rows for own in bins], []
        pooled = []
        for own, each, needed in zip(bins, maps, ctx.needs_input_grad[1:], strict=True):
            values, places = _packed(each, own) if needed else (_plain(each, own), None)
            pooled.append(values)
            ctx.places.append(places)
        used = [own.rows for own in bins if len(own.rows)]
        if len(used) < 2:
            return max(pooled, key=len)
        return torch.cat(pooled).index_select(0, torch.argsort(torch.cat(used)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grads: list[Tensor | None] = [None]
        for rows, places, (shape, dtype) in zip(ctx.rows, ctx.places, ctx.like, strict=True):
            grads.append(None if places is None else _scatter(grad, rows, places, shape).to(dtype))
        return tuple(grads)


def _plain(maps: Tensor, bins: _Bins) -> Tensor:
    """The bins (n, C) of one level's maps (B, H, W, C)."""
    pooled = maps.new_empty(len(bins.rows), maps.shape[3])
    for block in _blocks(maps, bins, maps.element_size()):
        for part, best in _maxima(maps[..., block], bins, maps.new_zeros(())):
            pooled[part, block] = best
    return pooled


def _packed(maps: Tensor, bins: _Bins) -> tuple[Tensor, Tensor]:
    """As `_plain`, and the places (n, C) int32 of the maxima among all numbers of the maps; one
    past the last for a bin without cells."""
    pooled = maps.new_empty(len(bins.rows), maps.shape[3])
    places = torch.empty(pooled.shape, dtype=torch.int32)
    total = maps.numel()
    backwards = torch.arange(total, 0, -1, dtype=torch.int32).view(maps.shape)
    for block in _blocks(maps, bins, 8):
        # adding 0 makes −0 equal to 0
        number = maps[..., block].float() + 0
        key = _ordered(number.view(torch.int32)).masked_fill_(number.isnan(), LARGEST)
        pairs = torch.empty(*key.shape, 2, dtype=torch.int32)
        pairs[..., HIGH], pairs[..., LOW] = key, backwards[..., block]
        table = pairs.view(torch.int64)[..., 0]
        for part, best in _maxima(table, bins, table.new_zeros(())):
            halves = best.view(torch.int32).unflatten(1, (-1, 2))
            pooled[part, block] = _ordered(halves[..., HIGH]).view(torch.float32)
            torch.sub(total, halves[..., LOW], out=places[part, block])
    return pooled, places


def _ordered(bits: Tensor) -> Tensor:
    """IEEE numbers as integers of the same order, and back: negative ones count downwards."""
    return (bits >> 31).bitwise_and_(LARGEST).bitwise_xor_(bits)


def _blocks(maps: Tensor, bins: _Bins, num_bytes: int) -> Iterator[slice]:
    """Slices of the channels whose windows, of `num_bytes` per number, make a table that fits."""
    rows = maps.shape[0] * sum(down * across for _, _, down, across in bins.windows)
    step = max(16, TABLE_BYTES // max(1, rows * num_bytes) // 16 * 16)
    return (slice(start, start + step) for start in range(0, maps.shape[3], step))


def _maxima(maps: Tensor, bins: _Bins, empty: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Parts of the bins and their maxima (n, c), from a block of the maps (B, H, W, c); `empty` is
    the value of a bin without cells."""
    batch, channels = maps.shape[0], maps.shape[3]
    sizes = [batch * down * across for _, _, down, across in bins.windows]
    table = maps.new_empty(sum(sizes) + 1, channels)
    table[-1] = empty
    views = [
        rows.view(batch, down, across, channels)
        for rows, (_, _, down, across) in zip(table[:-1].split(sizes), bins.windows, strict=True)
    ]
    made: dict[tuple[int, int], Tensor] = {}
    for (a, b, _, _), view in zip(bins.windows, views, strict=True):
        if a:
            smaller, half = made[a - 1, b], 2 ** (a - 1)
            torch.maximum(smaller[:, :-half], smaller[:, half:], out=view)
        elif b:
            smaller, half = made[0, b - 1], 2 ** (b - 1)
            torch.maximum(smaller[:, :, :-half], smaller[:, :, half:], out=view)
        else:
            view.copy_(maps)
        made[a, b] = view
    step = max(1, PART_BYTES // (channels * table.element_size()))
    other = table.new_empty(min(step, len(bins.rows)), channels)
    for start in range(0, len(bins.rows), step):
        part = slice(start, start + step)
        best = table.index_select(0, bins.corners[0][part])
        for corner in bins.corners[1:]:
            torch.index_select(table, 0, corner[part], out=other[: len(best)])
            torch.maximum(best, other[: len(best)], out=best)
        yield part, best


def _scatter(grad: Tensor, rows: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of maps (B, H, W, C) from that of the bins (num_bins, C), in float32; bin
    `rows[i]` has its maxima at `places[i]`."""
    total = torch.zeros(shape.numel() + 1)
    step = max(1, PART_BYTES // (8 * shape[3]))
    for part, place in zip(rows.split(step), places.split(step), strict=True):
        values = grad.index_select(0, part).float()
        total.scatter_add_(0, place.flatten().long(), values.flatten())
    return total[:-1].view(shape)
