"""Images of a run that turn out to be broken: counted, named, kept in checkpoints, and limited."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resdet.config.loading import AnyConfig, config_to_dict
from resdet.engine import distributed
from resdet.engine.distributed import Processes
from resdet.engine.validation import Validation
from resdet.errors import UserError, first_few

logger = logging.getLogger("resdet")

NAMED = 4
"""Images that a message names; the checkpoint lists all of them."""


@dataclass
class BrokenImages:
    """The images of one data set that were left out because they could not be read.

    Each process adds those it meets; `collect` makes them known to all.
    """

    key: str
    """data.train or data.val, for messages."""
    count: int
    """Images of the data set."""
    max_share: float
    """`data.max_broken`."""
    strict: bool = False
    """None may be broken, because of --strict."""
    known: dict[int, str] = field(default_factory=dict)
    """Reasons by position in the data set, since the run began; kept in checkpoints."""
    _since_start: set[int] = field(default_factory=set)
    """Positions since this process started: who resumes may have replaced the others."""
    _own: dict[int, str] = field(default_factory=dict)
    """What this process has met since the last `collect`."""

    @property
    def limit(self) -> int:
        """How many images may be broken; one of a small set, unless `data.max_broken` is 0."""
        if self.strict:
            return 0
        return math.ceil(self.max_share * self.count - 1e-9)

    def add(self, problems: Iterable[tuple[int, str]]) -> None:
        """What this process has met: (position, reason) of each image."""
        self._own.update(problems)

    @property
    def too_many(self) -> bool:
        """Whether this process alone knows of more than may be; it asks no other process."""
        return bool(self._own) and len(self._since_start | self._own.keys()) > self.limit

    def collect(self, processes: Processes) -> None:
        """Exchange what was met since the last call, and name it; every process calls it."""
        own, self._own = self._own, {}
        gathered = distributed.gather(own, processes)
        self.learn({position: why for part in gathered for position, why in part.items()})

    def learn(self, problems: Mapping[int, str]) -> None:
        """What all processes know already, and name it."""
        if not problems:
            return
        self.known.update(sorted(problems.items()))
        self._since_start |= problems.keys()
        logger.warning(
            f"{self.key}: {len(problems)} broken image(s) left out, {len(self.known)} of "
            f"{self.count} so far: {first_few(list(problems.values()), NAMED)}"
        )

    @property
    def excess(self) -> str | None:
        """What is wrong where more images are broken than may be."""
        if len(self._since_start) <= self.limit:
            return None
        reasons = [self.known[position] for position in sorted(self._since_start)]
        allowed = f"data.max_broken {self.max_share:g} allows {self.limit}"
        return (
            f"{self.key}: {len(reasons)} of {self.count} images are broken, and "
            f"{'--strict allows none' if self.strict else allowed}: {first_few(reasons, NAMED)}; "
            f"replace the files, or {'omit --strict' if self.strict else 'raise data.max_broken'}"
        )

    def check(self) -> None:
        """UserError of `excess`."""
        if what := self.excess:
            raise UserError(what)

    def restore(self, known: Mapping[Any, Any]) -> None:
        """What a checkpoint knows."""
        self.known = {int(position): str(why) for position, why in known.items()}


def failure(
    broken: Mapping[int, str], count: int, max_share: float, *, key: str = "data.val", strict: bool
) -> str | None:
    """Name what a command left out of the `count` images of a data set. Returns what is wrong if
    that is more than `max_share`, or with `strict` anything."""
    images = BrokenImages(key, count, max_share, strict)
    images.learn(broken)
    return images.excess


def judge(
    validation: Validation | None, count: int, config: AnyConfig, runs: Sequence[Any], strict: bool
) -> Validation:
    """The same of an evaluation of `runs` on data.val, which becomes its result's; returns it. The
    result of one run, but not of an ensemble, also gets its config, to be written with the
    predictions."""
    assert validation is not None, "nobody asked to stop"
    limit = config.data.max_broken
    validation.result.failure = failure(validation.broken, count, limit, strict=strict)
    if len(runs) == 1:
        validation.result.run_config = config_to_dict(config)
    return validation
