"""What `resdet eval-imagenet --task loc` takes beside its runs; imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LocOptions:
    """Where classes and proposals come from."""

    classifiers: Sequence[str] = ()
    """Runs or published names whose five best classes are localized; several are an ensemble."""
    oracle: bool = False
    """Localize the true class instead."""
    proposals: Sequence[str] = ()
    """For R-CNNs: RPN runs or proposals files; empty takes those of the config."""
    crops: str = "1"
    """Views that classifiers see: 1, 10 or dense."""
    scales: Sequence[int] | None = None
    """Short sides in pixels of dense views; None is the paper's."""

    def given(self) -> dict[str, Any]:
        """What is set, by the names that users know."""
        return {
            "--classifier": self.classifiers,
            "--oracle": self.oracle,
            "--proposals": self.proposals,
            "--crops": self.crops != "1",
            "--scales": self.scales,
        }
