"""Counters and histograms in the text format of Prometheus (version 0.0.4)."""

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the ranges that durations are counted in."""
COUNTS = (1, 2, 4, 8, 16, 32)


class Counter:
    """A number per combination of label values, which only grows."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}
        self._lock = threading.Lock()

    def add(self, *values: str, amount: float = 1.0) -> None:
        """Count, for the values of the labels in their order."""
        with self._lock:
            self._values[values] = self._values.get(values, 0.0) + amount

    def lines(self) -> Iterator[str]:
        """The lines of the format."""
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} counter"
        with self._lock:
            rows = sorted(self._values.items())
        for values, number in rows:
            pairs = zip(self.labels, values, strict=True)
            inside = ",".join(f'{label}="{value}"' for label, value in pairs)
            yield (
                f"{self.name}{{{inside}}} {number:.15g}" if inside else f"{self.name} {number:.15g}"
            )


class Histogram:
    """How many values were at most as large as each of some bounds."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name, self.text, self.bounds = name, text, tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Count a value."""
        with self._lock:
            self._counts[bisect_left(self.bounds, value)] += 1
            self._sum += value

    def lines(self) -> Iterator[str]:
        """The lines of the format."""
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} histogram"
        with self._lock:
            counts, total = list(self._counts), self._sum
        below = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
            below += count
            yield f'{self.name}_bucket{{le="{bound}"}} {below}'
        yield f"{self.name}_sum {total:.6f}"
        yield f"{self.name}_count {below}"


def gauge(name: str, text: str, value: float) -> Iterator[str]:
    """The lines of a number that goes up and down."""
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} gauge"
    yield f"{name} {value:.10g}"
